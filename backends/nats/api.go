package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// The management requests go the way of all others, not through package jetstream's client: so they end with their
// context while the socket is stuck, fail at once when the connection breaks, and are counted. Its types are theirs.

// api sends one management request and decodes the answer into resp, which may be nil.
func (b *Backend) api(ctx context.Context, kind callKind, op string, req, resp any) error {
	var body []byte
	if req != nil {
		var err error
		if body, err = json.Marshal(req); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	out := b.request(ctx, kind, &natsgo.Msg{Subject: b.apiRoot + op, Data: body})[0]
	if out.err != nil {
		err := fmt.Errorf("%s: %w", op, out.err)
		if kind == callInfo {
			err = harmless(err)
		}
		return err
	}
	if err := decodeAPI(out.msg.Data, resp); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func decodeAPI(data []byte, resp any) error {
	var refusal struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &refusal); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if refusal.Error != nil {
		return refusal.Error
	}
	if resp == nil {
		return nil
	}
	if err := json.Unmarshal(data, resp); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// streamInfo is a stream, with the number of messages by subject where they were asked for.
type streamInfo struct {
	jetstream.StreamInfo
	Total  int `json:"total"`
	Offset int `json:"offset"`
}

// info asks for a stream; with a filter, also for the number of messages of each subject that matches.
func (b *Backend) info(ctx context.Context, stream, filter string) (*streamInfo, error) {
	var all *streamInfo
	for offset := 0; ; {
		var req any
		if filter != "" {
			req = map[string]any{"subjects_filter": filter, "offset": offset}
		}
		sent := time.Now()
		var page streamInfo
		if err := b.api(ctx, callInfo, "STREAM.INFO."+stream, req, &page); err != nil {
			return nil, err
		}
		b.clock.set(sent, page.TimeStamp)
		if all == nil {
			all = &page
			if all.State.Subjects == nil {
				all.State.Subjects = make(map[string]uint64)
			}
		} else {
			maps.Copy(all.State.Subjects, page.State.Subjects)
		}
		offset += len(page.State.Subjects)
		if len(page.State.Subjects) == 0 || offset >= page.Total {
			return all, nil
		}
	}
}

// ensureQueue makes sure that both streams of a queue exist and can do what the driver needs, and returns the first.
func (b *Backend) ensureQueue(ctx context.Context, n names) (*streamInfo, error) {
	main, err := b.ensureStream(ctx, b.mainStream(n))
	if err != nil {
		return nil, err
	}
	if _, err := b.ensureStream(ctx, b.stateStream(n)); err != nil {
		return nil, err
	}
	return main, nil
}

func (b *Backend) mainStream(n names) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.stream,
		Description:       "Holdfast queue " + n.queue,
		Subjects:          []string{n.subjects},
		Retention:         jetstream.WorkQueuePolicy,
		Storage:           b.config.Storage,
		Replicas:          b.config.Replicas,
		Duplicates:        dedupWindow,
		AllowDirect:       true,
		AllowMsgSchedules: b.schedules,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: -1,
		MaxConsumers:      -1,
		RePublish: &jetstream.RePublish{
			Source: n.lanes + ">", Destination: n.hints + ">", HeadersOnly: true,
		},
	}
}

// stateStream keeps the last entry of each subject, a subject for each message that was returned with something to
// remember. It is no direct-get stream: in a cluster only the leader's answer is sure to be the last entry.
func (b *Backend) stateStream(n names) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.states,
		Description:       "Holdfast queue " + n.queue + ": state of returned messages",
		Subjects:          []string{n.stateRoot + ">"},
		Retention:         jetstream.LimitsPolicy,
		Storage:           b.config.Storage,
		Replicas:          b.config.Replicas,
		MaxMsgsPerSubject: 1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxConsumers:      -1,
	}
}

func (b *Backend) ensureStream(ctx context.Context, want jetstream.StreamConfig) (*streamInfo, error) {
	have, err := b.info(ctx, want.Name, "")
	if isAPIError(err, jetstream.JSErrCodeStreamNotFound) && !b.config.NoCreate {
		err = b.api(ctx, callAdmin, "STREAM.CREATE."+want.Name, want, nil)
		if err != nil && !isAPIError(err, jetstream.JSErrCodeStreamNameInUse) {
			return nil, err
		}
		have, err = b.info(ctx, want.Name, "") // as it is, whoever of several created it
	}
	if err != nil {
		return nil, err
	}
	return have, b.adapt(ctx, want, have)
}

// adapt turns on what an existing stream lacks, and leaves everything else as its operator set it.
func (b *Backend) adapt(ctx context.Context, want jetstream.StreamConfig, have *streamInfo) error {
	c := have.Config
	if c.Retention != want.Retention || !slices.Equal(c.Subjects, want.Subjects) {
		return invalid("", fmt.Errorf("stream %s exists with retention %v and subjects %q; a queue needs %v and %q",
			c.Name, c.Retention, c.Subjects, want.Retention, want.Subjects))
	}
	changed := false
	if want.RePublish != nil && c.RePublish == nil {
		c.RePublish, changed = want.RePublish, true
	}
	if want.AllowMsgSchedules && !c.AllowMsgSchedules {
		c.AllowMsgSchedules, changed = true, true
	}
	if want.MaxMsgsPerSubject == 1 && c.MaxMsgsPerSubject != 1 {
		c.MaxMsgsPerSubject, changed = 1, true
	}
	if !changed || b.config.NoCreate {
		return nil
	}
	return b.api(ctx, callAdmin, "STREAM.UPDATE."+c.Name, c, nil)
}

// epochOf tells a stream from an earlier one of the same name. It is part of the consumers' names: sequence numbers
// start again in a queue that was deleted and made anew, and a late settlement of the old one, which the server would
// look up by sequence alone, must find no consumer.
func epochOf(info *streamInfo) string {
	return fmt.Sprintf("%x", info.Created.UnixMilli())
}

type consumerRequest struct {
	Stream string                   `json:"stream_name"`
	Config jetstream.ConsumerConfig `json:"config"`
	Action string                   `json:"action"`
}

func (b *Backend) consumerRequest(ctx context.Context, action string, stream string,
	c jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	var info jetstream.ConsumerInfo
	op := "CONSUMER.CREATE." + stream + "." + c.Durable + "." + c.FilterSubject
	err := b.api(ctx, callAdmin, op, consumerRequest{stream, c, action}, &info)
	return &info, err
}

// ensureConsumer makes sure that a lane has its durable consumer, with leases of at least term, and returns its name
// and the leases' real length.
//
// A longer lease than asked for stays: other processes count on it. Should two processes lengthen one at once, the
// shorter wish could win by coming last; each therefore looks again after its change.
func (b *Backend) ensureConsumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) (
	string, time.Duration, error) {
	info, err := b.consumerRequest(ctx, "create", stream, want)
	if isAPIError(err, codeLaneHasConsumer) {
		// A stream that was restored from a backup keeps the consumers of its first epoch.
		if want.Durable, err = b.consumerOf(ctx, stream, want.FilterSubject); err != nil {
			return "", 0, err
		}
		err = b.api(ctx, callInfo, "CONSUMER.INFO."+stream+"."+want.Durable, nil, info)
	} else if isAPIError(err, jetstream.JSErrCodeConsumerAlreadyExists, jetstream.JSErrCodeConsumerExists) {
		err = b.api(ctx, callInfo, "CONSUMER.INFO."+stream+"."+want.Durable, nil, info)
	}
	for err == nil && info.Config.AckWait < want.AckWait {
		longer := info.Config
		longer.AckWait = want.AckWait
		if _, err = b.consumerRequest(ctx, "update", stream, longer); err == nil {
			err = b.api(ctx, callInfo, "CONSUMER.INFO."+stream+"."+want.Durable, nil, info)
		}
	}
	if err != nil {
		return "", 0, err
	}
	return want.Durable, info.Config.AckWait, nil
}

func (b *Backend) consumerOf(ctx context.Context, stream, filter string) (string, error) {
	all, err := b.listConsumers(ctx, stream)
	if err != nil {
		return "", err
	}
	for _, info := range all {
		if info.Config.FilterSubject == filter {
			return info.Name, nil
		}
	}
	return "", invalid("", fmt.Errorf("stream %s has a consumer that overlaps with %s", stream, filter))
}

// listConsumers lists the consumers of a stream.
func (b *Backend) listConsumers(ctx context.Context, stream string) ([]jetstream.ConsumerInfo, error) {
	var all []jetstream.ConsumerInfo
	for {
		var page struct {
			Total     int                      `json:"total"`
			Consumers []jetstream.ConsumerInfo `json:"consumers"`
		}
		req := map[string]int{"offset": len(all)}
		if err := b.api(ctx, callInfo, "CONSUMER.LIST."+stream, req, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Consumers...)
		if len(page.Consumers) == 0 || len(all) >= page.Total {
			return all, nil
		}
	}
}

// missing finds out why nobody answered a request for a stream or one of its consumers: NotFound if the stream is
// gone, otherwise the stream as it is now.
func (b *Backend) missing(ctx context.Context, stream string) (*streamInfo, error) {
	info, err := b.info(ctx, stream, "")
	if isAPIError(err, jetstream.JSErrCodeStreamNotFound) {
		return nil, &driver.Error{Kind: driver.NotFound, Err: err}
	}
	return info, err
}

// atLeast2 tells whether a version of the form major.minor.patch is 2.minor or newer.
func atLeast2(minor int, version string) bool {
	var a, b int
	if n, _ := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > 2 || a == 2 && b >= minor
}

var errOldServer = errors.New("needs nats-server 2.10 or newer")
