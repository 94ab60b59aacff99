package conformance

// resourceRules.
var resourceRules []Rule
