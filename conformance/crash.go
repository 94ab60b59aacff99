package conformance

// crashRules.
var crashRules []Rule
