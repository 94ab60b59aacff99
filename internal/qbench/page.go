package qbench

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// style says how to make text stand out.
type style struct{ good, bad, strong, faint, end string }

var (
	plain   style
	colored = style{good: "\x1b[32m", bad: "\x1b[31m", strong: "\x1b[1m", faint: "\x1b[2m", end: "\x1b[0m"}
)

func (s style) mark(good bool) string {
	if good {
		return s.good + "✓" + s.end
	}
	return s.bad + "✗" + s.end
}

func (s style) bold(text string) string { return s.strong + text + s.end }

// page is a text being written.
type page struct {
	strings.Builder
	style style
}

func (p *page) line(format string, args ...any) {
	p.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// row is a label and what is to be said about it.
func (p *page) row(label, format string, args ...any) {
	p.line("  %-19s %s", label, fmt.Sprintf(format, args...))
}

// table writes rows with right-aligned columns, the first row as a head.
func (p *page) table(rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				b.WriteString("  " + cell + gap)
			} else {
				b.WriteString("  " + gap + cell)
			}
		}
		if n == 0 {
			p.line("%s", p.style.faint+b.String()+p.style.end)
		} else {
			p.line("%s", b.String())
		}
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func secs(s float64) string { return span(time.Duration(s * float64(time.Second))) }

func milli(ms float64) string { return span(time.Duration(ms * float64(time.Millisecond))) }

// span writes a time with about three digits.
func span(d time.Duration) string {
	switch s := d.Seconds(); {
	case d == 0:
		return "0 s"
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", s*1e3)
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", s)
	case d < 2*time.Minute:
		return fmt.Sprintf("%.1f s", s)
	case d < 2*time.Hour:
		return fmt.Sprintf("%.1f min", s/60)
	default:
		return fmt.Sprintf("%.1f h", s/3600)
	}
}
