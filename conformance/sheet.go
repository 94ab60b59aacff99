package conformance

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Sheet is what a suite found out about a backend.
type Sheet struct {
	Backend string // Harness.Name
	Broker  string // with version
	Tier    Tier
	Results []Result
}

// Count is how many rules ended so.
func (s *Sheet) Count(st Status) int {
	n := 0
	for _, r := range s.Results {
		if r.Status == st {
			n++
		}
	}
	return n
}

// Summary is the sheet in a line.
func (s *Sheet) Summary() string {
	return fmt.Sprintf("%-14s %-28s PASS %d  FAIL %d  EMULATED %d  UNSUPPORTED %d",
		s.Backend, s.Broker, s.Count(Pass), s.Count(Fail), s.Count(Emulated), s.Count(Unsupported))
}

// Print writes the sheet, a line a rule.
func (s *Sheet) Print(w io.Writer) error {
	slices.SortStableFunc(s.Results, func(a, b Result) int { return cmp.Compare(familyOrder(a.Rule.ID), familyOrder(b.Rule.ID)) })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nCapability sheet of %s: %s, %s tier\n\n", s.Backend, s.Broker, s.Tier)
	for _, r := range s.Results {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Rule.ID, r.Status, r.Rule.Claim, r.remark())
	}
	fmt.Fprintf(t, "\n%s\n", s.Summary())
	return t.Flush()
}

// remark is what is worth knowing beside the status: the reason, or what was measured.
func (r Result) remark() string {
	var parts []string
	if r.Status != Pass {
		line, _, _ := strings.Cut(r.Detail, "\n")
		parts = append(parts, line)
	}
	if r.Status == Fail || r.Status == Unsupported {
		return parts[0]
	}
	for _, name := range slices.Sorted(maps.Keys(r.Measured)) {
		parts = append(parts, name+" "+r.Measured[name])
	}
	return strings.Join(parts, ", ")
}
