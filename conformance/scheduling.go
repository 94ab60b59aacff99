package conformance

// schedulingRules.
var schedulingRules []Rule
