package conformance

// contentRules.
var contentRules []Rule
