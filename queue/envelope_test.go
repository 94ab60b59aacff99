package queue

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

var published = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

func TestEnvelopeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := drawEnvelope(t)
		user := rapid.MapOf(rapid.StringMatching(`[a-zA-Zü -]{0,8}`), rapid.String()).Draw(t, "user")
		for name := range user {
			if strings.HasPrefix(name, headerPrefix) {
				delete(user, name)
			}
		}
		got, gotUser, err := openEnvelope(&driver.Message{ID: "broker's", Header: e.headers(user)})
		if err != nil {
			t.Fatalf("damaged: %v", err)
		}
		if e.id == "" {
			e.id = "broker's"
		}
		require.Equal(t, e, got)
		require.Equal(t, user, gotUser)
	})
}

// drawEnvelope draws an envelope that Holdfast itself can have written.
func drawEnvelope(t *rapid.T) envelope {
	count := rapid.IntRange(0, maxCount)
	instant := rapid.Custom(func(t *rapid.T) time.Time {
		if n := rapid.Int64Range(0, maxInstant).Draw(t, "instant"); n > 0 {
			return time.UnixMicro(n).UTC()
		}
		return time.Time{}
	})
	e := envelope{
		id: rapid.String().Draw(t, "id"), key: rapid.String().Draw(t, "key"), tenant: rapid.String().Draw(t, "tenant"),
		priority: rapid.Int().Draw(t, "priority"), published: instant.Draw(t, "published"), generation: count.Draw(t, "generation"),
		record: record{
			Attempts: count.Draw(t, "attempts"), Releases: count.Draw(t, "releases"), Crashes: count.Draw(t, "crashes"),
			First: instant.Draw(t, "first"), Last: instant.Draw(t, "last"), Err: rapid.String().Draw(t, "err"),
			Hold: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "hold")) * time.Microsecond,
		},
	}
	if rapid.Bool().Draw(t, "dead") {
		e.death = &Death{
			Reason: ReasonAttempts, Err: rapid.String().Draw(t, "why"), Attempts: count.Draw(t, "failed"), Crashes: count.Draw(t, "crashed"),
			Origin: rapid.String().Draw(t, "origin"), First: instant.Draw(t, "dead first"), Last: instant.Draw(t, "dead last"),
		}
	}
	e.foreign = e.published.IsZero()
	return e
}

func TestForeignMessageIsDeliveredAsItIs(t *testing.T) {
	header := map[string]string{"hf-attempts": "7", "x": "y"}
	e, user, err := openEnvelope(&driver.Message{ID: "q:1", Key: "k", Header: header})
	require.NoError(t, err)
	require.Equal(t, envelope{foreign: true, id: "q:1", key: "k"}, e)
	require.Equal(t, header, user)

	e.Attempts = 2
	e.generation = 1
	again, user, err := openEnvelope(&driver.Message{ID: "q:2", Header: e.headers(user)})
	require.NoError(t, err)
	require.Equal(t, 2, again.Attempts, "its own hf-attempts must not be taken for ours")
	require.Equal(t, "q:1", again.id, "a copy keeps the id")
	require.True(t, again.foreign, "so does who published it")
	require.Equal(t, map[string]string{"x": "y"}, user)
}

func TestDamagedEnvelope(t *testing.T) {
	for name, h := range map[string]map[string]string{
		"newer version":   {headerVersion: "2", headerID: "m"},
		"empty version":   {headerVersion: "", headerID: "m"},
		"no number":       {headerVersion: "1", headerID: "m", headerAttempts: "many"},
		"out of range":    {headerVersion: "1", headerID: "m", headerGeneration: "99999999999999999999"},
		"far future":      {headerVersion: "1", headerID: "m", headerFirst: "9223372036854775807"},
		"before the time": {headerVersion: "1", headerID: "m", headerPublished: "-1"},
	} {
		t.Run(name, func(t *testing.T) {
			e, _, err := openEnvelope(&driver.Message{Header: h})
			require.Error(t, err)
			require.True(t, e.unread)
			require.Equal(t, "m", e.id, "what can be read is read")
			require.Empty(t, e.copyID(published), "its generation may be one that was not read")

			e.death = &Death{Reason: ReasonEnvelope, Origin: "jobs"}
			dead := e.again(&driver.Message{Header: h}, nil)
			for name, value := range h {
				require.Equal(t, value, dead[name], "it is kept as it came")
			}
			require.Equal(t, "jobs", dead[headerOrigin])
			e.death = nil
			require.Equal(t, h, e.again(&driver.Message{Header: dead}, nil), "and so it is given back")
		})
	}
}

func TestStateRoundTripWithinBounds(t *testing.T) {
	worst := record{
		Attempts: maxCount, Releases: maxCount, Returns: maxCount, Crashes: maxCount, Hold: maxHold,
		First: time.UnixMicro(maxInstant).UTC(), Last: time.UnixMicro(maxInstant).UTC(), Err: clip(strings.Repeat("<", 2000)),
	}
	text := worst.state()
	require.LessOrEqual(t, len(text), 4<<10, "the contract's bound of Return.State")
	var e envelope
	require.NoError(t, e.resume(text))
	require.Equal(t, worst, e.record)

	require.NoError(t, e.resume(""), "nothing stored: the headers hold")
	require.Equal(t, worst, e.record)
	require.Error(t, e.resume("{"))
	require.Equal(t, worst, e.record)
	require.NoError(t, e.resume(`{"a":-3,"n":-1,"c":99999999999,"h":-5}`))
	require.Equal(t, record{Crashes: maxCount}, e.record)
}

// What counts and death add must fit into the room that Publish leaves for them.
func TestCopyRoom(t *testing.T) {
	long := clip(strings.Repeat("ü", 2000))
	e := envelope{
		generation: maxCount,
		record: record{
			Attempts: maxCount, Releases: maxCount, Crashes: maxCount, Hold: maxHold, Err: long,
			First: time.UnixMicro(maxInstant), Last: time.UnixMicro(maxInstant),
		},
		death: &Death{
			Reason: ReasonAttempts, Origin: strings.Repeat("q", 255), Attempts: maxCount, Crashes: maxCount, Err: long,
			First: time.UnixMicro(maxInstant), Last: time.UnixMicro(maxInstant),
		},
	}
	require.LessOrEqual(t, size(&driver.Message{Header: e.headers(nil)}), copyRoom)
}

func TestCopyID(t *testing.T) {
	e := envelope{id: "daily", published: published, generation: 1}
	first := e.copyID(published)
	e.generation++
	require.NotEqual(t, first, e.copyID(published), "two copies of a message")
	e.generation--
	e.published = published.Add(24 * time.Hour)
	require.NotEqual(t, first, e.copyID(published), "two messages of one id")
	e.published = time.Time{}
	require.NotEmpty(t, e.copyID(published), "a foreign message: the broker's time")
	require.Empty(t, e.copyID(time.Time{}), "nothing tells two lives apart")
}

func TestDedupIDIsWhatEveryBrokerTakes(t *testing.T) {
	require.Empty(t, dedupID(""))
	require.Equal(t, "daily/2026-03-01/acme", dedupID("daily/2026-03-01/acme"))
	seen := map[string]string{}
	for _, id := range []string{"tägliche", "a b", " a", "a\n", "täglich", strings.Repeat("x", 129), strings.Repeat("x", 130), "\x00"} {
		short := dedupID(id)
		require.Regexp(t, `^sha256-[0-9a-f]{64}$`, short)
		require.Empty(t, seen[short])
		seen[short] = id
	}
}

func TestClip(t *testing.T) {
	require.Equal(t, "a b c", clip("a\n\tb  c"))
	require.Equal(t, "a?b", clip("a\xff\xfeb"))
	rapid.Check(t, func(t *rapid.T) {
		s := clip(string(rapid.SliceOf(rapid.Byte()).Draw(t, "s")) + strings.Repeat("ü", rapid.IntRange(0, 400).Draw(t, "more")))
		if len(s) > maxErrorText+len("…") || !utf8.ValidString(s) || strings.ContainsAny(s, "\r\n") {
			t.Fatalf("clipped to %d bytes: %q", len(s), s)
		}
		if clip(s) != s {
			t.Fatal("clipped twice is another text")
		}
	})
}

func FuzzOpenEnvelope(f *testing.F) {
	e := envelope{id: "m", published: published, generation: 3, record: record{Attempts: 2, First: published, Err: "e", Hold: time.Minute}}
	for _, h := range []map[string]string{
		e.headers(map[string]string{"x": "y"}), {}, {headerVersion: "2"}, {headerVersion: "1", headerAttempts: "-1"},
		{headerVersion: "1", headerReason: "attempts", headerDeadFirst: "1e9"},
	} {
		text, err := json.Marshal(h)
		require.NoError(f, err)
		f.Add(string(text), e.record.state())
	}
	f.Add(`{"hf-v":"1","hf-hold":"9223372036854775807"}`, `{"a":1e400}`)
	f.Fuzz(func(t *testing.T, text, state string) {
		var h map[string]string
		if json.Unmarshal([]byte(text), &h) != nil {
			return
		}
		e, user, damage := openEnvelope(&driver.Message{ID: "broker's", Header: h})
		stale := e.resume(state)
		require.GreaterOrEqual(t, min(e.Attempts, e.Releases, e.Returns, e.Crashes, e.generation), 0)
		require.GreaterOrEqual(t, e.Hold, time.Duration(0))
		if damage != nil || stale != nil {
			return
		}
		// What was read can be written, in both forms, and is read again as the same.
		e.record = e.failed(errors.New("again"), published)
		copied, copiedUser, err := openEnvelope(&driver.Message{ID: e.id, Header: e.headers(user)})
		require.NoError(t, err)
		returns := e.Returns
		e.Returns = 0 // never in headers
		if e.foreign {
			user = userHeaders(user)
		}
		require.Equal(t, e.truncated(), copied)
		require.Equal(t, user, copiedUser)
		e.Returns = returns
		var returned envelope
		require.NoError(t, returned.resume(e.state()))
		require.True(t, e.Last.Equal(returned.Last))
		require.Equal(t, e.Attempts, returned.Attempts)
		require.Equal(t, e.Hold, returned.Hold)
	})
}

// truncated is e as headers keep it: times to the microsecond.
func (e envelope) truncated() envelope {
	for _, at := range []*time.Time{&e.First, &e.Last} {
		if !at.IsZero() {
			*at = time.UnixMicro(at.UnixMicro()).UTC()
		}
	}
	e.Hold = e.Hold.Truncate(time.Microsecond)
	return e
}
