package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// The server keeps nothing with a message that is given back. What the next delivery shall know therefore lies in a
// second stream: one subject for each message, of which only the last entry is kept.
//
// Walk through the crashes.
//   - Between the entry and the nak: the lease runs out, the message comes back with the new state and one delivery
//     more than the state knows of. That is a start without an end, which it was.
//   - Between the ack and the removal of the entry: an entry without a message is left. Sequences are not used again
//     in a stream; OpenConsumer removes what lies below the first message.
//   - The queue is deleted behind our back and made again: sequences start anew. An entry says when its message was
//     stored, so that it is not taken for that of a later message of the same sequence.
//   - A process that lost its lease writes late: it expects the last entry to be the one it read. If the new holder
//     has written since, the server refuses, and the Nack ends with LeaseLost.

const expectHeader = "Nats-Expected-Last-Subject-Sequence"

// memory is what the state stream holds for a message.
type memory struct {
	sequence uint64 // of the entry; 0: there is none
	state    string // Return.State of the last Nack
	unseen   int    // deliveries that no caller has seen, because the driver gave them back itself
}

// stateEntry is memory as it is stored.
type stateEntry struct {
	Stored    int64  `json:"stored"`    // when the message was, in ns
	Delivered uint64 `json:"delivered"` // the delivery that wrote the entry
	Unseen    int    `json:"unseen,omitempty"`
	State     []byte `json:"state,omitempty"`
}

func (c *Consumer) stateSubject(sequence uint64) string {
	return c.names.stateRoot + strconv.FormatUint(sequence, 10)
}

// recall reads what is known of messages that were delivered before, and returns an error for each.
func (c *Consumer) recall(ctx context.Context, ms []*receiptMsg) []error {
	var again []*receipt
	var index []int
	for i, m := range ms {
		if m.delivered > 1 {
			again, index = append(again, m.receipt), append(index, i)
		}
	}
	errs := make([]error, len(ms))
	entries, failed := c.readStates(ctx, again)
	for j, r := range again {
		errs[index[j]] = failed[j]
		if failed[j] != nil {
			continue
		}
		e := entries[j]
		r.memory = memory{sequence: e.sequence}
		if e.Stored == r.stamp {
			r.memory.state, r.memory.unseen = string(e.State), e.Unseen
		}
	}
	return errs
}

type storedEntry struct {
	stateEntry
	sequence uint64
}

// readStates reads the last entries of several messages; the zero entry stands for none.
func (c *Consumer) readStates(ctx context.Context, rs []*receipt) ([]storedEntry, []error) {
	entries, errs := make([]storedEntry, len(rs)), make([]error, len(rs))
	if len(rs) == 0 {
		return entries, errs
	}
	msgs := make([]*natsgo.Msg, len(rs))
	for i, r := range rs {
		msgs[i] = &natsgo.Msg{
			Subject: c.b.apiRoot + "STREAM.MSG.GET." + c.names.states,
			Data:    fmt.Appendf(nil, `{"last_by_subj":%q}`, c.stateSubject(r.sequence)),
		}
	}
	for i, o := range c.b.request(ctx, callState, msgs...) {
		if errs[i] = o.err; o.err != nil {
			continue
		}
		m, err := decodeStored(o.msg.Data)
		if isAPIError(err, jetstream.JSErrCodeMessageNotFound, jetstream.JSErrCodeStreamNotFound) {
			continue
		}
		if err == nil {
			entries[i].sequence = m.Sequence
			err = json.Unmarshal(m.Data, &entries[i].stateEntry)
		}
		if err != nil {
			errs[i] = fmt.Errorf("state: %w", err)
		}
	}
	return entries, errs
}

// stateWrite is an entry that is to replace the memory of a receipt.
type stateWrite struct {
	item    int // of the caller
	receipt *receipt
	next    memory
}

// writeStates stores entries, and returns an error for each.
func (c *Consumer) writeStates(ctx context.Context, writes []stateWrite) []error {
	errs := make([]error, len(writes))
	if len(writes) == 0 {
		return errs
	}
	open := make([]int, len(writes))
	for i := range open {
		open[i] = i
	}
	if open = c.writeRound(ctx, writes, open, errs); len(open) > 0 {
		open = c.reconcile(ctx, writes, open, errs)
		c.writeRound(ctx, writes, open, errs)
	}
	return errs
}

// writeRound stores the open entries, and returns those that met another entry than expected.
func (c *Consumer) writeRound(ctx context.Context, writes []stateWrite, open []int, errs []error) (conflicts []int) {
	msgs := make([]*natsgo.Msg, len(open))
	for j, i := range open {
		w := writes[i]
		body, _ := json.Marshal(stateEntry{ // numbers and bytes: it cannot fail
			Stored: w.receipt.stamp, Delivered: w.receipt.delivered, Unseen: w.next.unseen, State: []byte(w.next.state),
		})
		msgs[j] = &natsgo.Msg{
			Subject: c.stateSubject(w.receipt.sequence),
			Header:  natsgo.Header{expectHeader: {strconv.FormatUint(w.receipt.memory.sequence, 10)}},
			Data:    body,
		}
	}
	for j, o := range c.b.request(ctx, callState, msgs...) {
		i := open[j]
		var ack jetstream.PubAck
		errs[i] = o.err
		if o.err == nil {
			errs[i] = decodeAPI(o.msg.Data, &ack)
		}
		switch {
		case errs[i] == nil:
			writes[i].next.sequence = ack.Sequence
			writes[i].receipt.memory = writes[i].next
		case isAPIError(errs[i], jetstream.JSErrCodeStreamWrongLastSequence,
			jetstream.JSErrCodeStreamWrongLastSequenceConstant):
			conflicts = append(conflicts, i)
		case errors.Is(errs[i], errNoResponder):
			errs[i] = c.explain(ctx, writes[i].receipt, errs[i])
		}
	}
	return conflicts
}

// reconcile looks at entries that were not expected. One of a later delivery means that the message is somebody
// else's. Any other is ours, from a call whose confirmation was lost, or a leftover, and is replaced.
func (c *Consumer) reconcile(ctx context.Context, writes []stateWrite, conflicts []int, errs []error) (open []int) {
	rs := make([]*receipt, len(conflicts))
	for j, i := range conflicts {
		rs[j] = writes[i].receipt
	}
	entries, failed := c.readStates(ctx, rs)
	for j, i := range conflicts {
		r := rs[j]
		switch {
		case failed[j] != nil:
			errs[i] = failed[j]
		case entries[j].Stored == r.stamp && entries[j].Delivered > r.delivered:
			errs[i] = &driver.Error{Kind: driver.LeaseLost, Err: errors.New("a later delivery has stored its state")}
		default:
			r.memory.sequence = entries[j].sequence
			open = append(open, i)
		}
	}
	return open
}

// forgetState removes the entry of a message that is gone. Nobody waits: one that stays is found by forgetOrphans.
func (c *Consumer) forgetState(r *receipt) {
	if r.memory.sequence == 0 {
		return
	}
	c.b.post(callState, &natsgo.Msg{
		Subject: c.b.apiRoot + "STREAM.MSG.DELETE." + c.names.states,
		Data:    fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, r.memory.sequence),
	})
}

// forgetOrphans removes the entries of messages below first, which are gone.
func (c *Consumer) forgetOrphans(ctx context.Context, first uint64) error {
	info, err := c.b.info(ctx, c.names.states, c.names.stateRoot+">")
	if err != nil {
		return err
	}
	var purges []*natsgo.Msg
	for subject := range info.State.Subjects {
		n, err := strconv.ParseUint(strings.TrimPrefix(subject, c.names.stateRoot), 10, 64)
		if err == nil && n < first {
			purges = append(purges, &natsgo.Msg{
				Subject: c.b.apiRoot + "STREAM.PURGE." + c.names.states,
				Data:    fmt.Appendf(nil, `{"filter":%q}`, subject),
			})
		}
	}
	if len(purges) > 0 {
		_ = c.b.request(ctx, callState, purges...) // what stays harms nobody, and the next one tries again
	}
	return nil
}

// storedMsg is a message as the server returns it from a stream.
type storedMsg struct {
	Subject  string `json:"subject"`
	Sequence uint64 `json:"seq"`
	Header   []byte `json:"hdrs"`
	Data     []byte `json:"data"`
}

func decodeStored(data []byte) (*storedMsg, error) {
	var resp struct {
		Message *storedMsg `json:"message"`
	}
	if err := decodeAPI(data, &resp); err != nil {
		return nil, err
	}
	if resp.Message == nil {
		return nil, errors.New("answer without a message")
	}
	return resp.Message, nil
}
