package history

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Two workers of one slot each. Both are ready from 1 s on. Message a waits from 2 s to 4 s, when w1 takes it, and b from
// 3 s to 6 s, when w2 does; w2 ends at 10 s.
const twoWorkers = `
	1000 w1 proc_ready n=1
	1000 w2 proc_ready n=1
	2000 p publish_ok a
	3000 p publish_ok b
	4000 w1 deliver a u=90000
	4000 w1 start a
	6000 w2 deliver b u=90000
	6000 w2 start b
	8000 w1 end a
	8000 w1 settle_sent a v=ack
	8000 w1 settle_ok a
	10000 w2 end b
	10000 w2 settle_sent b v=ack
	10000 w2 settle_ok b`

var idleCases = map[string]struct {
	history string
	o       IdleOptions
	want    IdleTime
}{
	// Idle: both from 1 to 4 s, w2 to 6 s, w1 from 8 s on. A message waits from 2 to 6 s.
	"two workers": {twoWorkers, IdleOptions{}, IdleTime{Live: 18, Idle: 3*2 + 2 + 2, Backlog: 2*2 + 2, Share: 6.0 / 18}},
	"window": {twoWorkers, IdleOptions{From: 3000 * ms, To: 5000 * ms},
		IdleTime{Live: 4, Idle: 2 + 1, Backlog: 2 + 1, Share: 3.0 / 4}},
	"only b counts": {twoWorkers, IdleOptions{Eligible: func(m *Message) bool { return m.ID == "b" }},
		IdleTime{Live: 18, Idle: 10, Backlog: 2 + 2, Share: 4.0 / 18}},
	"nobody": {"1000 p publish_ok a\n2000 p heal", IdleOptions{}, IdleTime{}},
	"not before its delay": {`
		0 w1 proc_ready n=1
		0 p publish_ok a delay=3000
		5000 p heal`, IdleOptions{}, IdleTime{Live: 5, Idle: 5, Backlog: 2, Share: 2.0 / 5}},
	"not before it is due": {`
		0 w1 proc_ready n=1
		0 p publish_ok a due=4000
		5000 p heal`, IdleOptions{}, IdleTime{Live: 5, Idle: 5, Backlog: 1, Share: 1.0 / 5}},
	"not before it was published": {`
		0 w1 proc_ready n=1
		4000 p publish_ok a due=1000
		5000 p heal`, IdleOptions{}, IdleTime{Live: 5, Idle: 5, Backlog: 1, Share: 1.0 / 5}},
	"again after a retry and its delay": {`
		0 w1 proc_ready n=2
		0 p publish_ok a
		0 w1 deliver a u=90000
		0 w1 start a
		1000 w1 end a err=x
		1000 w1 settle_sent a v=retry delay=3000
		2000 w1 settle_ok a
		9000 p heal`, IdleOptions{}, IdleTime{Live: 18, Idle: 17, Backlog: 8, Share: 8.0 / 18}},
	"again after a release": {`
		0 w1 proc_ready n=1
		0 p publish_ok a
		0 w1 deliver a u=90000
		1000 w1 settle_sent a v=release
		2000 w1 settle_ok a
		3000 w1 deliver a u=90000
		5000 p heal`, IdleOptions{}, IdleTime{Live: 5, Idle: 5, Backlog: 1, Share: 1.0 / 5}},
	// The slot of w1 is dead from 1 s on; the message comes back at 3 s and waits for the end.
	"again after a kill": {`
		0 w1 proc_ready n=1
		0 w2 proc_ready n=1
		0 p publish_ok a
		0 w1 deliver a u=3000
		0 w1 start a
		1000 w1 kill
		5000 p heal`, IdleOptions{}, IdleTime{Live: 6, Idle: 5, Backlog: 2, Share: 2.0 / 6}},
	"again after a retry without an answer": {`
		0 w1 proc_ready n=1
		0 p publish_ok a
		0 w1 deliver a u=3000
		1000 w1 settle_sent a v=retry
		5000 p heal`, IdleOptions{}, IdleTime{Live: 5, Idle: 5, Backlog: 2, Share: 2.0 / 5}},
	"not after an ack without an answer": {`
		0 w1 proc_ready n=1
		0 p publish_ok a
		0 w1 deliver a u=3000
		0 w1 start a
		1000 w1 end a
		1000 w1 settle_sent a v=ack
		5000 p heal`, IdleOptions{}, IdleTime{Live: 5, Idle: 4}},
	"stopped slots are not idle": {`
		0 w1 proc_ready n=1
		0 p publish_ok a
		1000 w1 stop
		4000 w1 cont
		5000 p heal`, IdleOptions{}, IdleTime{Live: 2, Idle: 2, Backlog: 2, Share: 1}},
	"nor are draining ones, though they work": {`
		0 w1 proc_ready n=2
		0 p publish_ok a
		0 p publish_ok b
		0 w1 deliver a u=90000
		0 w1 start a
		1000 w1 proc_drain
		5000 w1 end a`, IdleOptions{}, IdleTime{Live: 2, Idle: 1, Backlog: 1, Share: 0.5}},
}

func TestIdleWhileBacklog(t *testing.T) {
	for name, c := range idleCases {
		t.Run(name, func(t *testing.T) {
			got := Index(script(t, c.history)).Idle(c.o)
			require.InDelta(t, c.want.Live, got.Live, 1e-9)
			require.InDelta(t, c.want.Idle, got.Idle, 1e-9)
			require.InDelta(t, c.want.Backlog, got.Backlog, 1e-9)
			require.InDelta(t, c.want.Share, got.Share, 1e-9)
		})
	}
}

func TestReady(t *testing.T) {
	m := Index(script(t, `
		1 p publish_invoke a
		2 p publish_ok a
		5 w1 deliver a u=100
		6 w1 settle_sent a v=retry delay=10
		7 w1 settle_ok a
		20 w2 deliver a u=30
		40 w2 deliver a u=90
		50 p heal`)).Message("a")
	require.Equal(t, []Span{{2 * ms, 5 * ms}, {17 * ms, 20 * ms}, {30 * ms, 40 * ms}}, m.Ready(50*ms))
	require.Equal(t, Span{90 * ms, 200 * ms}, m.Ready(200 * ms)[3])
}
