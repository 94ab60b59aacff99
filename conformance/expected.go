package conformance

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Declaration is one thing that a backend declines or emulates.
type Declaration struct {
	Backend string `yaml:"backend"`
	Rule    string `yaml:"rule"`
	Status  Status `yaml:"status"` // UNSUPPORTED or EMULATED
	Reason  string `yaml:"reason"`
	Source  string `yaml:"source"` // where the vendor says so
}

type expected []Declaration

// parseExpected reads a file of declarations. Each needs all its fields: a denial without a reason is none.
func parseExpected(text []byte) (expected, error) {
	var x expected
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&x); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("declarations: %w", err)
	}
	for _, d := range x {
		if d.Backend == "" || d.Rule == "" || d.Reason == "" || d.Source == "" || d.Status != Unsupported && d.Status != Emulated {
			return nil, fmt.Errorf("declarations: the one for %s %s lacks a field, or its status is neither %s nor %s", d.Backend, d.Rule, Unsupported, Emulated)
		}
	}
	return x, nil
}

// find finds the declaration of a rule for a backend mode: one for "rabbit-quorum" holds for "rabbit-quorum-4.0" too.
func (x expected) find(backend, rule string) (Declaration, bool) {
	for _, d := range x {
		if (d.Backend == backend || strings.HasPrefix(backend, d.Backend+"-")) && d.Rule == rule {
			return d, true
		}
	}
	return Declaration{}, false
}

//go:embed expected.yaml
var declared []byte

// Declared is the file of declarations for the backends of this module.
func Declared() []byte { return declared }
