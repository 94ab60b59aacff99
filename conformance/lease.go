package conformance

// leaseRules.
var leaseRules []Rule
