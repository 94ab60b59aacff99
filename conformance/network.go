package conformance

// networkRules.
var networkRules []Rule
