package qbench

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-queue/holdfast/backends"
	"github.com/holdfast-queue/holdfast/queue/driver"
)

const capsHelp = `caps prints what brokers can do through their drivers, as a table in Markdown: what each promises as it is
connected, in its version. Without arguments it shows the brokers that need nothing but this program.`

func newCaps(p *Program) *cobra.Command {
	return &cobra.Command{
		Use:   "caps [URL ...]",
		Short: "Print what brokers can do",
		Long:  capsHelp,
		RunE: func(cmd *cobra.Command, urls []string) error {
			if len(urls) == 0 {
				urls = []string{backends.Memory + "://", backends.NATSEmbedded + "://"}
			}
			all, err := capabilities(cmd.Context(), urls)
			if err != nil {
				return err
			}
			return printCaps(p.Stdout, all)
		},
	}
}

func capabilities(ctx context.Context, urls []string) ([]driver.Capabilities, error) {
	var all []driver.Capabilities
	for _, url := range urls {
		b, err := backends.Open(ctx, url)
		if err != nil {
			return nil, brokerFailed(err)
		}
		all = append(all, b.Capabilities())
		if err := b.Close(ctx); err != nil {
			return nil, brokerFailed(err)
		}
	}
	return all, nil
}

// capRows are the rows of the table.
var capRows = []struct {
	name string
	of   func(driver.Capabilities) string
}{
	{"a message goes to any free worker", func(c driver.Capabilities) string { return yes(c.Sharing == driver.PerMessage) }},
	{"leases can be prolonged", func(c driver.Capabilities) string { return yes(c.Extend) }},
	{"longest lease in all", func(c driver.Capabilities) string { return most(c.MaxTerm) }},
	{"acks are confirmed", func(c driver.Capabilities) string { return yes(c.SettleConfirmed) }},
	{"deliveries are counted", func(c driver.Capabilities) string { return c.Counting.String() }},
	{"fencing token", func(c driver.Capabilities) string { return yes(c.Fencing) }},
	{"counts stay with a message given back", func(c driver.Capabilities) string { return yes(c.Carries) }},
	{"lanes (priorities, tenants)", func(c driver.Capabilities) string { return yes(c.Lanes) }},
	{"native priorities", func(c driver.Capabilities) string { return number(c.Priorities, "no") }},
	{"native tenant fairness", func(c driver.Capabilities) string { return yes(c.TenantFairness) }},
	{"order per key", func(c driver.Capabilities) string { return yes(c.KeyOrder) }},
	{"delay on publishing", func(c driver.Capabilities) string { return delay(c.Delay) }},
	{"delay on a return", redelayed},
	{"largest message", func(c driver.Capabilities) string { return size(c.MaxBytes) }},
	{"deduplication", func(c driver.Capabilities) string { return window(c.Dedup) }},
	{"drops by itself after", func(c driver.Capabilities) string { return number(c.BrokerDropsAfter, "never") }},
	{"a dead worker's messages come back", func(c driver.Capabilities) string { return death(c.DeathDetected) }},
}

func printCaps(w io.Writer, all []driver.Capabilities) error {
	var b strings.Builder
	row := func(name string, of func(driver.Capabilities) string) {
		b.WriteString("| " + name + " |")
		for _, c := range all {
			b.WriteString(" " + of(c) + " |")
		}
		b.WriteByte('\n')
	}
	row("", func(c driver.Capabilities) string { return strings.TrimSpace(c.Name + " " + c.Version) })
	row("---", func(driver.Capabilities) string { return "---" })
	for _, r := range capRows {
		row(r.name, r.of)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func number(n int, zero string) string {
	if n == 0 {
		return zero
	}
	return strconv.Itoa(n)
}

func most(d time.Duration) string {
	if d == 0 {
		return "no limit"
	}
	return d.String()
}

func window(d time.Duration) string {
	if d == 0 {
		return "no"
	}
	return "within " + d.String()
}

func death(d time.Duration) string {
	if d == 0 {
		return "when their leases run out"
	}
	return "within " + d.String()
}

// redelayed: where the broker cannot, the queue publishes a delayed copy.
func redelayed(c driver.Capabilities) string {
	if c.Redelay.By == driver.Nobody && c.Delay.By != driver.Nobody {
		return "by a delayed copy"
	}
	return delay(c.Redelay)
}

func delay(d driver.Delaying) string {
	if d.By == driver.Nobody || d.Max == 0 {
		return d.By.String()
	}
	return fmt.Sprintf("%s, up to %v", d.By, d.Max)
}

func size(n int) string {
	if n == 0 {
		return "no limit"
	}
	return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20))
}
