package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// reader walks a YAML tree and notes on which line each key stands. It keeps the first error; after it, reads do
// nothing. Decoding into structs would report unknown keys and wrong types too, but not what to write instead, and
// would not tell a key that is missing from one that is zero.
type reader struct {
	file  string
	lines map[string]int // by path: "arrivals.rate", "tenants[2].share"
	err   *Error
}

// section is one mapping of the tree.
type section struct {
	r      *reader
	path   string
	values map[string]*yaml.Node
}

var (
	yamlLine   = regexp.MustCompile(`^yaml: line ([0-9]+): (.*)$`)
	digitsOnly = regexp.MustCompile(`^[0-9.]+$`)
)

// document returns the root of the only document in data.
func document(file string, data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF) || (err == nil && len(doc.Content) == 0):
		return nil, &Error{File: file, Problem: "the file is empty", Hint: "describe a workload in it"}
	case err != nil:
		return nil, syntaxError(file, err)
	}
	switch err := dec.Decode(&next); {
	case err == nil:
		return nil, &Error{File: file, Line: next.Line, Problem: "a second document", Hint: "use a file for each workload"}
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(file, err)
	}
	return doc.Content[0], nil
}

func syntaxError(file string, err error) *Error {
	e := &Error{File: file, Problem: "not YAML", Err: err}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if line, convErr := strconv.Atoi(m[1]); convErr == nil {
			e.Line, e.Err = line, errors.New(m[2])
		}
	}
	return e
}

func (r *reader) fail(line int, hint, format string, args ...any) {
	if r.err == nil {
		r.err = &Error{File: r.file, Line: line, Problem: fmt.Sprintf(format, args...), Hint: hint}
	}
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// mapping reads n as a mapping with no other keys than the known ones.
func (r *reader) mapping(n *yaml.Node, path string, known ...string) section {
	s := section{r: r, path: path, values: make(map[string]*yaml.Node)}
	where := path
	if where == "" {
		where = "the file"
	}
	m := resolve(n)
	if m.Kind != yaml.MappingNode {
		r.fail(n.Line, "write "+known[0]+": ... under it", "%s is not a mapping", where)
		return s
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		_, twice := s.values[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !slices.Contains(known, key.Value):
			r.fail(key.Line, "the keys here are "+strings.Join(known, ", "), "unknown key %q in %s", key.Value, where)
		case twice:
			r.fail(key.Line, "remove one", "key %q is given twice", key.Value)
		case resolve(value).Tag == "!!null":
			r.fail(key.Line, "give it one or remove the key", "%s has no value", s.name(key.Value))
		}
		s.values[key.Value] = value
		r.lines[s.name(key.Value)] = key.Line
	}
	return s
}

func (s section) name(key string) string {
	if s.path == "" {
		return key
	}
	return s.path + "." + key
}

// sub reads the mapping under key, which may be missing.
func (s section) sub(key string, known ...string) section {
	if n := s.values[key]; n != nil && s.r.err == nil {
		return s.r.mapping(n, s.name(key), known...)
	}
	return section{r: s.r, path: s.name(key)}
}

// list returns the elements under key and the path of each.
func (s section) list(key string) ([]*yaml.Node, []string) {
	n := s.values[key]
	if n == nil || s.r.err != nil {
		return nil, nil
	}
	seq := resolve(n)
	if seq.Kind != yaml.SequenceNode || len(seq.Content) == 0 {
		s.r.fail(n.Line, "write its elements on lines that begin with a dash", "%s is not a list", s.name(key))
		return nil, nil
	}
	paths := make([]string, len(seq.Content))
	for i, e := range seq.Content {
		paths[i] = fmt.Sprintf("%s[%d]", s.name(key), i)
		s.r.lines[paths[i]] = e.Line
	}
	return seq.Content, paths
}

// scalar returns the text under key; ok is false if the key is missing or an error was found.
func (s section) scalar(key, want string) (text string, line int, ok bool) {
	n := s.values[key]
	if n == nil || s.r.err != nil {
		return "", 0, false
	}
	if v := resolve(n); v.Kind == yaml.ScalarNode {
		return v.Value, n.Line, true
	}
	s.r.fail(n.Line, "write "+want, "%s is not a single value", s.name(key))
	return "", 0, false
}

func (s section) text(key string, to *string, form *regexp.Regexp, want string) {
	text, line, ok := s.scalar(key, want)
	if ok && !form.MatchString(text) {
		s.r.fail(line, "write "+want, "%s is %q", s.name(key), text)
	} else if ok {
		*to = text
	}
}

func (s section) integer(key string, to *int, bounds [2]int, want string) {
	text, line, ok := s.scalar(key, want)
	if !ok {
		return
	}
	v, err := strconv.Atoi(strings.ReplaceAll(text, "_", ""))
	switch {
	case err != nil:
		s.r.fail(line, "write "+want, "%s is %q, not a whole number", s.name(key), text)
	case v < bounds[0] || v > bounds[1]:
		s.r.fail(line, "write "+want, "%s is %d, not from %d to %d", s.name(key), v, bounds[0], bounds[1])
	default:
		*to = v
	}
}

func (s section) number(key string, to *float64, bounds [2]float64, want string) {
	text, line, ok := s.scalar(key, want)
	if !ok {
		return
	}
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
		s.r.fail(line, "write "+want, "%s is %q, not a number", s.name(key), text)
	case v < bounds[0] || v > bounds[1]:
		s.r.fail(line, "write "+want, "%s is %v, not from %v to %v", s.name(key), v, bounds[0], bounds[1])
	default:
		*to = v
	}
}

func (s section) duration(key string, to *time.Duration, least time.Duration) {
	text, line, ok := s.scalar(key, "a time with its unit, such as 30s")
	if !ok {
		return
	}
	v, err := time.ParseDuration(text)
	switch {
	case err != nil && digitsOnly.MatchString(text):
		s.r.fail(line, "write "+text+"s if seconds are meant", "%s is %s, without a unit", s.name(key), text)
	case err != nil:
		s.r.fail(line, "write a number and a unit, such as 250ms, 30s or 20m", "%s is %q, not a time", s.name(key), text)
	case v < least || v > longest:
		s.r.fail(line, fmt.Sprintf("write a time from %v to %v", least, longest), "%s is %v", s.name(key), v)
	default:
		*to = v
	}
}

// choice reads one of a few words.
func choice[T ~string](s section, key string, to *T, words ...T) {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	want := strings.Join(list, " or ")
	text, line, ok := s.scalar(key, want)
	if !ok {
		return
	}
	if !slices.Contains(list, text) {
		s.r.fail(line, "write "+want, "%s is %q", s.name(key), text)
		return
	}
	*to = T(text)
}
