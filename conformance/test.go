package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
)

// Variables that steer Test.
const (
	tierVariable  = "HOLDFAST_TIER"  // smoke, fast (the default) or full
	sheetVariable = "HOLDFAST_SHEET" // a file to append the sheet's summary to
)

// Test runs the rules of a tier as subtests and prints the sheet.
func Test(t *testing.T, h Harness) {
	tier := Fast
	if text := os.Getenv(tierVariable); text != "" {
		var err error
		if tier, err = ParseTier(text); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "holdfast-"+h.Name+"-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSuite(t.Context(), h, tier, dir)
	if err != nil {
		t.Fatal(err)
	}
	sheet := &Sheet{Backend: h.Name, Broker: s.Broker, Tier: tier}
	var mu sync.Mutex
	t.Run("rules", func(t *testing.T) {
		for _, r := range Rules() {
			if r.Tier > tier {
				continue
			}
			t.Run(r.Title(), func(t *testing.T) {
				if !h.Virtual && !h.Shared {
					t.Parallel()
				}
				var res Result
				if h.Virtual {
					synctest.Test(t, func(t *testing.T) { res = s.Run(t.Context(), r) })
				} else {
					res = s.Run(t.Context(), r)
				}
				mu.Lock()
				sheet.Results = append(sheet.Results, res)
				mu.Unlock()
				if res.Status == Fail {
					t.Errorf("%s\n%s", r.Claim, res.Detail)
				}
			})
		}
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	report(t, sheet)
	if !t.Failed() {
		_ = os.RemoveAll(dir)
	}
}

func report(t *testing.T, sheet *Sheet) {
	if err := sheet.Print(os.Stdout); err != nil {
		t.Error(err)
	}
	path := os.Getenv(sheetVariable)
	if path == "" {
		return
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, sheet.Summary())
}
