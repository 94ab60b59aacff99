package nats

import (
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestNamesShareNoToken(t *testing.T) {
	require.Equal(t, "collect-2", encodeName("collect-2"))
	require.Equal(t, "=43ollect", encodeName("Collect"))
	require.Equal(t, "a=2eb", encodeName("a.b"))
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		require.Equal(t, a == b, encodeName(a) == encodeName(b))
		for _, name := range []string{a, b} {
			token, err := laneToken(name)
			if err != nil {
				require.Greater(t, len(encodeName(name)), maxToken)
				continue
			}
			require.NotEmpty(t, token)
			require.Empty(t, strings.Trim(token, "abcdefghijklmnopqrstuvwxyz0123456789-=_"))
			back, ok := laneOf(token)
			require.True(t, ok)
			require.Equal(t, name, back)
		}
	})
}

func FuzzDecodeName(f *testing.F) {
	for _, s := range []string{"", "_", "a", "=41", "=61", "=4", "=", "A", "=C3", "=c3=a4", "a.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		name, ok := decodeName(token)
		if ok {
			require.Equal(t, token, encodeName(name), "each name has one token")
		}
	})
}

func TestOddNames(t *testing.T) {
	b := openBackend(t, Config{})
	for _, name := range []string{"a.b", "a*", ">", "with space", "tab\t", "ünïcode", "_", "=", "UPPER", "$JS", "\xff"} {
		queue := name + queueName(t)
		p, c := openProducer(t, b, queue), openConsumer(t, b, queue, 0)
		publish(t, p, inLane(name, "lane"), text("default"))
		d := receiveOne(t, c, driver.LaneWant{Lane: name})
		require.Equal(t, name, d.Lane)
		require.Equal(t, "lane", string(d.Body))
		ack(t, c, d)
		d = receiveOne(t, c, driver.LaneWant{Lane: ""})
		require.Equal(t, "default", string(d.Body))
		ack(t, c, d)
		require.NoError(t, b.DeleteQueue(testContext(t), queue))
	}
}

func TestTooLongNamesAreInvalid(t *testing.T) {
	b := openBackend(t, Config{})
	long := strings.Repeat("x", maxToken)
	_, err := b.OpenProducer(testContext(t), long+"y")
	require.ErrorIs(t, err, driver.Invalid)
	require.ErrorContains(t, err, "takes 221 bytes")
	_, err = b.OpenProducer(testContext(t), "")
	require.ErrorIs(t, err, driver.Invalid)

	p, c := openProducer(t, b, long), openConsumer(t, b, long, 0)
	publish(t, p, inLane(long, "longest"))
	d := receiveOne(t, c, driver.LaneWant{Lane: long})
	require.NoError(t, c.Nack(testContext(t), []driver.Return{{D: d, State: "s"}}))
	d = receiveOne(t, c, driver.LaneWant{Lane: long})
	require.Equal(t, "s", d.State)
	ack(t, c, d)

	err = p.Publish(testContext(t), []*driver.Message{inLane(long+"y", "no"), text("neighbour")})
	require.ErrorIs(t, driver.Outcome(err, 0), driver.Invalid)
	require.NoError(t, driver.Outcome(err, 1))
	_, err = c.Receive(testContext(t), driver.Want{Max: 1, Lanes: []driver.LaneWant{{Lane: long + "y"}}}, 0)
	require.ErrorIs(t, err, driver.Invalid)
	require.NoError(t, b.DeleteQueue(testContext(t), long))
}

func TestPrefixesAreApart(t *testing.T) {
	one, two := openBackend(t, Config{Prefix: "one"}), openBackend(t, Config{Prefix: "two"})
	queue := queueName(t)
	publish(t, openProducer(t, one, queue), text("of one"))
	c := openConsumer(t, two, queue, 0)
	require.Empty(t, receive(t, c, 1, 0))
	_, err := Open(testContext(t), Config{URL: shared.URL(), Prefix: "a.b"})
	require.ErrorIs(t, err, driver.Invalid)
}

func TestHeadersRoundTrip(t *testing.T) {
	for _, header := range []map[string]string{
		nil,
		{"a": "1", "A": "2", "x-Y_z.9": "plain"},
		{"": "empty name", "empty": "", "colon:": "x", "sp ace": "x", " lead": " trail "},
		{"crlf": "a\r\nb", "Nats-TTL": "1s", "nats-msg-id": "7", packedHeader: "AAAA", "Status": "404"},
		{"ünï": "wörld", "bin": "\x00\xff\x7f", "nl": "\n", "tab": "\t", "line\r\nNats-Rollup": "all"},
		{"left": " x", "right": "x ", "space": " "},
		{"Description": "No Messages", "long": strings.Repeat("v", 5000)},
	} {
		h := encodeHeaders(header)
		for name := range h {
			require.False(t, strings.HasPrefix(name, natsHeaders), "the server would act on %s", name)
		}
		got := decodeHeaders(h)
		require.Len(t, got, len(header))
		for name, value := range header {
			require.Equal(t, value, got[name])
		}
	}
	require.Equal(t, natsgo.Header{"hf-id": {"7"}}, encodeHeaders(map[string]string{"hf-id": "7"}), "plain for plain clients")
	require.Equal(t, map[string]string{packedHeader: "!"}, decodeHeaders(natsgo.Header{packedHeader: {"!"}}))
	require.Equal(t, map[string]string{"x": "1, 2"}, decodeHeaders(natsgo.Header{"x": {"1", "2"}, "Nats-Any": {"x"}}))
}

func FuzzHeaders(f *testing.F) {
	f.Add("name", "value", "Nats-Msg-Id", "\r\n")
	f.Add("", "", "x:y", "ü")
	f.Add("outer", " x", "outer too", "y ")
	f.Add("a", " ", "b", "\t")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2 string) {
		header := map[string]string{n1: v1, n2: v2}
		h := encodeHeaders(header)
		require.Equal(t, header, decodeHeaders(h))
		// What nats.go makes of them on the wire must not change them either.
		wire := "NATS/1.0\r\n"
		for name, values := range h {
			wire += name + ": " + values[0] + "\r\n"
		}
		wire += "\r\n"
		require.Equal(t, len(wire), blockSize(h))
		parsed, err := natsgo.DecodeHeadersMsg([]byte(wire))
		require.NoError(t, err)
		require.Equal(t, header, decodeHeaders(parsed))
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add("AWEBYg")
	f.Add("/////w")
	f.Fuzz(func(t *testing.T, s string) {
		if header, err := unpack(s); err == nil {
			again, err := unpack(encodeHeaders(map[string]string{"": s}).Get(packedHeader))
			require.NoError(t, err)
			require.Equal(t, s, again[""])
			require.NotNil(t, header)
		}
	})
}

func FuzzAddress(f *testing.F) {
	f.Add("_INBOX.x.1.2")
	f.Add("_INBOX.x.zz.zz")
	f.Fuzz(func(t *testing.T, subject string) {
		r := newReplies()
		r.inbox = "_INBOX.x."
		if id, i, ok := r.parse(subject); ok {
			id2, i2, ok := r.parse(r.address(id, i))
			require.True(t, ok)
			require.Equal(t, id, id2)
			require.Equal(t, i, i2)
		}
	})
}
