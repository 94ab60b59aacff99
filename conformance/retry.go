package conformance

// retryRules.
var retryRules []Rule
