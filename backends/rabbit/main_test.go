package rabbit

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-queue/holdfast/conformance"
)

func TestMain(m *testing.M) {
	conformance.Main(openThrough)
	code := m.Run()
	if err := stopBrokers(); err != nil {
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}
