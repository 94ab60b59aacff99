package nats

import (
	"strconv"
	"strings"
	"sync"

	natsgo "github.com/nats-io/nats.go"
)

// replies hands the answers of the server to the calls that wait for them. All calls share one subscription; the
// reply subject of a message is "<inbox><call>.<message>", both numbers in base 36. Pulls have subscriptions of their
// own (slots): a message of a stream comes with the subject it was published to.
type replies struct {
	inbox string // set before the first call

	mu    sync.Mutex
	calls map[uint64]*call
	last  uint64
}

func newReplies() *replies { return &replies{calls: make(map[uint64]*call)} }

// add registers a call and returns its number.
func (r *replies) add(c *call) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.calls[r.last] = c
	return r.last
}

func (r *replies) remove(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.calls, id)
}

// address is the reply subject of message i of call id.
func (r *replies) address(id uint64, i int) string {
	b := make([]byte, 0, len(r.inbox)+16)
	b = append(b, r.inbox...)
	b = strconv.AppendUint(b, id, 36)
	b = append(b, '.')
	return string(strconv.AppendInt(b, int64(i), 36))
}

// parse is the reverse of address.
func (r *replies) parse(subject string) (id uint64, i int, ok bool) {
	token, ok := strings.CutPrefix(subject, r.inbox)
	if !ok {
		return 0, 0, false
	}
	first, second, ok := strings.Cut(token, ".")
	if !ok {
		return 0, 0, false
	}
	id, err := strconv.ParseUint(first, 36, 64)
	if err != nil {
		return 0, 0, false
	}
	n, err := strconv.ParseUint(second, 36, 31)
	if err != nil {
		return 0, 0, false
	}
	return id, int(n), true
}

// dispatch is the subscription's handler; nats.go calls it for one message after the other.
func (r *replies) dispatch(m *natsgo.Msg) {
	id, i, ok := r.parse(m.Subject)
	if !ok {
		return
	}
	r.mu.Lock()
	c := r.calls[id]
	r.mu.Unlock()
	if c != nil {
		c.reply(i, m)
	}
}

func (r *replies) waiting() []*call {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*call, 0, len(r.calls))
	for _, c := range r.calls {
		all = append(all, c)
	}
	return all
}

// dropAll says that the connection broke: what was sent may stay unanswered.
func (r *replies) dropAll(err error) {
	for _, c := range r.waiting() {
		c.settleRest(&lostError{err})
	}
}

// deny says that the server refused to take messages with this subject.
func (r *replies) deny(subject string, err error) {
	for _, c := range r.waiting() {
		c.deny(subject, err)
	}
}

// statusOf tells a message of the server about a request from an answer: it has no reply subject and a status.
func statusOf(m *natsgo.Msg) (code string, text string) {
	if m.Reply != "" || len(m.Header) == 0 {
		return "", ""
	}
	return m.Header.Get("Status"), m.Header.Get("Description")
}
