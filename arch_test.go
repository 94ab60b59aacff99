// Package holdfast_test holds the architecture of the module to what docs/design.md says of it.
package holdfast_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/holdfast-queue/holdfast"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Doc        string
	Dir        string
	Standard   bool
	Imports    []string
	Deps       []string
}

func packages(t *testing.T, args ...string) []pkg {
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Doc,Dir,Standard,Imports,Deps"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		require.NoError(t, dec.Decode(&p))
		all = append(all, p)
	}
	return all
}

// What a package and everything below it may depend on, besides the standard library.
var mayDependOn = map[string][]string{
	"/queue/driver":        {},
	"/queue":               {module + "/queue"},
	"/queue/middleware":    {module + "/queue"},
	"/backends/memory":     {module + "/queue/driver"},
	"/backends/nats":       {module + "/queue/driver", "github.com/nats-io/nats.go", "github.com/nats-io/nkeys", "github.com/nats-io/nuid", "github.com/klauspost/compress", "golang.org/x/crypto", "golang.org/x/sys"},
	"/backends/rabbit":     {module + "/queue/driver", "github.com/rabbitmq/amqp091-go"},
	"/conformance/history": {"golang.org/x/sys"},
	"/conformance/proxy":   {},
	"/internal/workload":   {"go.yaml.in/yaml", "github.com/HdrHistogram/hdrhistogram-go"},
	"/internal/replay":     {module + "/internal/workload", "go.yaml.in/yaml", "github.com/HdrHistogram/hdrhistogram-go"},
}

func TestDependencies(t *testing.T) {
	for name, allowed := range mayDependOn {
		t.Run(name, func(t *testing.T) {
			for _, p := range packages(t, "-deps", "."+name) {
				self := p.ImportPath == module+name
				ok := p.Standard || self || slices.ContainsFunc(allowed, func(a string) bool {
					return p.ImportPath == a || strings.HasPrefix(p.ImportPath, a+"/")
				})
				require.True(t, ok, "%s depends on %s", name, p.ImportPath)
			}
		})
	}
}

// An application that imports queue and one backend gets that backend's client and nothing of the others'.
func TestSeparateModuleGetsOneClient(t *testing.T) {
	root, err := os.Getwd()
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("go.mod", fmt.Sprintf("module example.com/app\n\ngo 1.26\n\nrequire %s v0.0.0\n\nreplace %s => %s\n", module, module, root))
	write("main.go", fmt.Sprintf("package main\n\nimport (\n\t_ %q\n\t_ %q\n)\n\nfunc main() {}\n", module+"/queue", module+"/backends/nats"))
	sum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	write("go.sum", string(sum))
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	run("build", "-o", os.DevNull, ".")
	modules := map[string]bool{}
	for line := range strings.Lines(run("list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".")) {
		if m := strings.TrimSpace(line); m != "" && m != "example.com/app" && m != module {
			modules[m] = true
		}
	}
	for m := range modules {
		require.True(t, slices.Contains(mayDependOn["/backends/nats"], m), "the application compiles %s", m)
	}
	require.False(t, modules["github.com/nats-io/nats-server/v2"], "the server is for those who import backends/nats/embedded")
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range packages(t, "./...") {
		if p.ImportPath != module { // only this test is there
			require.NotEmpty(t, p.Doc, "%s has no package comment", p.ImportPath)
		}
	}
}

// Limits of docs/design.md, "Files and style".
const (
	maxFile, maxTestFile = 500, 700
	maxFunction          = 60
	maxParameters        = 4 // besides ctx
)

func TestSizes(t *testing.T) {
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "out") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".go" {
			checkSizes(t, path)
		}
		return nil
	}))
}

func checkSizes(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	test := strings.HasSuffix(path, "_test.go")
	most := maxFile
	if test {
		most = maxTestFile
	}
	if n := bytes.Count(text, []byte("\n")); n > most {
		t.Errorf("%s has %d lines, more than %d", path, n, most)
	}
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, path, text, 0)
	require.NoError(t, err)
	for _, decl := range tree.Decls {
		f, is := decl.(*ast.FuncDecl)
		if !is || f.Body == nil || test {
			continue
		}
		if n := files.Position(f.End()).Line - files.Position(f.Pos()).Line + 1; n > maxFunction {
			t.Errorf("%s: %s has %d lines, more than %d", path, f.Name, n, maxFunction)
		}
		if n := parameters(f); n > maxParameters {
			t.Errorf("%s: %s has %d parameters besides ctx, more than %d", path, f.Name, n, maxParameters)
		}
	}
}

func parameters(f *ast.FuncDecl) int {
	n := 0
	for _, p := range f.Type.Params.List {
		if sel, is := p.Type.(*ast.SelectorExpr); is && sel.Sel.Name == "Context" {
			continue
		}
		n += max(len(p.Names), 1)
	}
	return n
}

// Names that say nothing about what is inside.
func TestNoGrabBags(t *testing.T) {
	for _, p := range packages(t, "./...") {
		name := filepath.Base(p.ImportPath)
		require.NotContains(t, []string{"util", "utils", "common", "helpers", "misc"}, name)
	}
}

// The table in the README is what the program prints.
func TestReadmeHasTheCapabilities(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(readme), "<!-- caps -->\n")
	require.True(t, found)
	table, _, found := strings.Cut(rest, "<!-- /caps -->")
	require.True(t, found)
	out, err := exec.CommandContext(t.Context(), "go", "run", "./cmd/qbench", "caps").Output()
	require.NoError(t, err)
	require.Equal(t, string(out), table, "put the output of `go run ./cmd/qbench caps` into the README")
}
