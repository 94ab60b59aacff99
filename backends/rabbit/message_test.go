package rabbit

import (
	"encoding/binary"
	"maps"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// delivered is what a consumer gets of a publishing, with what the broker and the producer add.
func delivered(p amqp.Publishing, added amqp.Table) *amqp.Delivery {
	headers := maps.Clone(p.Headers)
	maps.Copy(headers, added)
	return &amqp.Delivery{Headers: headers, MessageId: p.MessageId, Timestamp: p.Timestamp, Priority: p.Priority, Body: p.Body}
}

var brokerHeaders = amqp.Table{
	tagHeader: "17", "x-death": []any{amqp.Table{"count": int64(1), "time": time.Unix(1, 0)}},
	"x-first-death-queue": "q", "x-last-death-reason": "expired", "x-delivery-count": int64(2),
	"x-acquired-count": int64(3), "x-opt-deaths": []any{}, "timestamp_in_ms": int64(1700000000123), "x-routed-by": "r@a",
	"x-something-of-later-versions": true,
}

func TestEncode(t *testing.T) {
	before := time.Now()
	m := &driver.Message{ID: "id-1", Header: map[string]string{"plain": "é\n", "CC": "x"}, Body: []byte{0, 255}}
	p, err := encode(m, 7)
	require.NoError(t, err)
	require.Equal(t, amqp.Table{"plain": "é\n", packedHeader: `{"text":{"CC":"x"}}`}, p.Headers)
	require.Equal(t, "id-1", p.MessageId)
	require.Equal(t, amqp.Persistent, p.DeliveryMode)
	require.Equal(t, uint8(7), p.Priority)
	require.Empty(t, p.ContentType)
	require.Equal(t, m.Body, p.Body)
	require.WithinRange(t, p.Timestamp, before, time.Now())
	require.Equal(t, 2+len("plain")+3+len("CC")+1, size(m))

	p, err = encode(&driver.Message{ID: strings.Repeat("i", 256)}, 0)
	require.NoError(t, err)
	require.Empty(t, p.MessageId) // the client library could not write it
	require.NotNil(t, p.Headers)
}

func TestRoundTrip(t *testing.T) {
	header := map[string]string{
		"": "empty name", "empty": "", "lines": "a\r\nb\n", strings.Repeat("n", 255): "fits", strings.Repeat("n", 256): "no",
		"CC": "cc", "BCC": "bcc", "cc": "small", "x-death": "mine", "X-Death": "mine", "x-": "short", "x": "one",
		packedHeader: `{"text":{"a":"b"}}`, "HF-PACKED": "big", tagHeader: "tag", "hf-id": "plain", "é": "é\u2028<>&",
		"nul\x00": "\x00", "timestamp_in_ms": "5", "invalid": "\xff", "\xfe": "name", "\uFFFD": "\uFFFD",
	}
	p, err := encode(&driver.Message{ID: "i", Header: header, Body: []byte("b")}, 1)
	require.NoError(t, err)
	require.NoError(t, p.Headers.Validate())
	for _, added := range []amqp.Table{nil, {tagHeader: "1"}, brokerHeaders} {
		require.Equal(t, driver.Message{ID: "i", Header: header, Body: []byte("b")}, decode(delivered(p, added)))
	}
}

func TestRoundTripProperty(t *testing.T) {
	name := rapid.OneOf(rapid.String(), rapid.StringN(250, 300, -1), rapid.SampledFrom([]string{
		"", "CC", "BCC", "x-death", "x-opt-y", packedHeader, tagHeader, "é", "\x00", "timestamp_in_ms"}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 8), func(b []byte) string { return string(b) }))
	value := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\n", "\x00", "{}", `{"text":{"a":"b"}}`}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 8), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		m := driver.Message{
			ID:     rapid.StringN(0, 60, 240).Draw(t, "id"),
			Header: rapid.MapOfN(name, value, 0, 8).Draw(t, "header"),
			Body:   rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
		}
		p, err := encode(&m, 0)
		require.NoError(t, err)
		for name, value := range p.Headers {
			require.LessOrEqual(t, len(name), 255)
			require.True(t, name == packedHeader || !reserved(name), name)
			require.True(t, utf8.ValidString(value.(string)))
		}
		p.Headers[tagHeader] = "1" // as the producer does
		require.Equal(t, m, decode(delivered(p, brokerHeaders)))
	})
}

func TestHeadersMustFitFrame(t *testing.T) {
	const overhead = 4 + 1 + 1 + 1 + 4 // table, and name and value of one header
	fits := &driver.Message{Header: map[string]string{"n": strings.Repeat("v", maxHeaderBytes-overhead)}}
	_, err := encode(fits, 0)
	require.NoError(t, err)

	fits.Header["n"] += "v"
	_, err = encode(fits, 0)
	require.ErrorIs(t, err, driver.TooLarge)
	require.ErrorContains(t, err, "122881 bytes, of at most 122880")

	// Packing may take more than the limit though the text itself does not.
	_, err = encode(&driver.Message{Header: map[string]string{"CC": strings.Repeat("\xff", 100<<10)}}, 0)
	require.ErrorIs(t, err, driver.TooLarge)
}

func TestDecodeForeign(t *testing.T) {
	stamp := time.Date(2026, 5, 4, 3, 2, 1, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		value any
		want  string
	}{
		{"text", "text"}, {"bad\xffutf", "bad\uFFFDutf"}, {[]byte("bytes"), "bytes"}, {[]byte{'a', 0xff}, "a\uFFFD"},
		{nil, ""}, {true, "true"}, {byte(200), "200"}, {int8(-5), "-5"}, {int16(-300), "-300"}, {uint16(65535), "65535"},
		{int32(-7), "-7"}, {uint32(math.MaxUint32), "4294967295"}, {int64(math.MinInt64), "-9223372036854775808"},
		{float32(0.1), "0.1"}, {2.5e300, "2.5e+300"}, {math.Inf(1), "+Inf"}, {stamp, "2026-05-04T02:02:01Z"},
		{amqp.Decimal{Scale: 2, Value: 12345}, "123.45"}, {amqp.Decimal{Scale: 3, Value: -5}, "-0.005"},
		{amqp.Decimal{Value: -5}, "-5"}, {amqp.Decimal{Scale: 1, Value: math.MinInt32}, "-214748364.8"},
		{amqp.Table{"b": []any{int64(math.MaxInt64), nil, "<\xff"}, "a": amqp.Table{"t": stamp}},
			`{"a":{"t":"2026-05-04T02:02:01Z"},"b":[9223372036854775807,null,"<` + "\uFFFD" + `"]}`},
		{[]any{math.NaN(), float32(0.1), amqp.Decimal{Scale: 1, Value: 15}, []byte("x"), true},
			`["NaN",0.1,1.5,"x",true]`},
	} {
		m := decode(&amqp.Delivery{Headers: amqp.Table{"h": c.value}})
		require.Equal(t, map[string]string{"h": c.want}, m.Header, "%#v", c.value)
	}
}

func TestDecodeForeignNames(t *testing.T) {
	added := maps.Clone(brokerHeaders)
	delete(added, tagHeader)
	delete(added, "x-something-of-later-versions")
	added["x-mine"], added["CC"], added["bad\xff"], added[packedHeader] = "1", []any{"a"}, "2", "not ours"
	m := decode(&amqp.Delivery{MessageId: "foreign", ContentType: "text/plain", CorrelationId: "c", Headers: added, Body: []byte("b")})
	require.Equal(t, driver.Message{ID: "foreign", Body: []byte("b"), Header: map[string]string{
		"x-mine": "1", "CC": `["a"]`, "bad\uFFFD": "2", packedHeader: "not ours"}}, m)

	m = decode(&amqp.Delivery{MessageId: "a\xff"})
	require.Equal(t, "a\uFFFD", m.ID)
	require.NotNil(t, m.Header)

	for _, rubbish := range []any{"", "{}", "null", `{"text":{"a":"b"}} x`, `{"other":1}`, `{"bytes":{"*":"*"}}`} {
		m = decode(&amqp.Delivery{Headers: amqp.Table{packedHeader: rubbish}})
		require.Equal(t, map[string]string{packedHeader: rubbish.(string)}, m.Header)
	}
	m = decode(&amqp.Delivery{Headers: amqp.Table{packedHeader: int32(1), "timestamp_in_ms": "theirs"}})
	require.Equal(t, map[string]string{packedHeader: "1", "timestamp_in_ms": "theirs"}, m.Header)
}

func TestSentAt(t *testing.T) {
	require.True(t, sentAt(&amqp.Delivery{}).IsZero())
	require.Equal(t, time.Unix(9, 0), sentAt(&amqp.Delivery{Timestamp: time.Unix(9, 0)}))
	require.Equal(t, time.UnixMilli(9123), sentAt(&amqp.Delivery{
		Timestamp: time.Unix(5, 0), Headers: amqp.Table{"timestamp_in_ms": int64(9123)}}))
	require.Equal(t, time.Unix(5, 0), sentAt(&amqp.Delivery{
		Timestamp: time.Unix(5, 0), Headers: amqp.Table{"timestamp_in_ms": "9123"}}))
}

// fuzzTable makes a table of any bytes: one byte for the kind of each field, the next ones for name and value.
func fuzzTable(data []byte, depth int) (amqp.Table, []byte) {
	table := make(amqp.Table)
	for len(data) > 2 && len(table) < 20 {
		kind, n := data[0], min(int(data[1]), len(data)-2)
		name := string(data[2 : 2+n])
		data = data[2+n:]
		if kind%16 == 15 {
			break
		}
		table[name], data = fuzzValue(kind, data, depth)
	}
	return table, data
}

func fuzzValue(kind byte, data []byte, depth int) (any, []byte) {
	var eight [8]byte
	rest := data[copy(eight[:], data):]
	n := binary.BigEndian.Uint64(eight[:])
	length := min(int(eight[0]), len(data))
	switch kind % 16 {
	case 0:
		return string(data[:length]), data[length:]
	case 1:
		return data[:length], data[length:]
	case 2:
		return n%2 == 0, rest
	case 3:
		return int64(n), rest
	case 4:
		return math.Float64frombits(n), rest
	case 5:
		return math.Float32frombits(uint32(n)), rest
	case 6:
		return time.Unix(int64(n), 0), rest
	case 7:
		return amqp.Decimal{Scale: eight[7], Value: int32(n)}, rest
	case 8, 9:
		if depth > 0 {
			table, left := fuzzTable(data, depth-1)
			if kind%16 == 9 {
				return []any{table, nil, eight[0], int8(n), int16(n), uint16(n), int32(n), uint32(n)}, left
			}
			return table, left
		}
	}
	return nil, rest
}

func FuzzDecode(f *testing.F) {
	f.Add("id", "x-death", "value", []byte("\x08\x01a\x00\x01b\x03abc"))
	f.Add("", packedHeader, `{"text":{"a":"b"},"bytes":{"_w":"_w"}}`, []byte("\x09\x01a\x07\x01b00000000"))
	f.Add("\xff", tagHeader, "\xff", []byte("\x06\x01t\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, id, name, value string, data []byte) {
		table, _ := fuzzTable(data, 4)
		table[name] = value
		m := decode(&amqp.Delivery{MessageId: id, Headers: table, Body: data})
		require.True(t, utf8.ValidString(m.ID))
		require.Equal(t, data, m.Body)
		_, err := ownPacked(table)
		for name, value := range m.Header {
			if _, packed := table[packedHeader]; !packed || err != nil {
				require.True(t, utf8.ValidString(name) && utf8.ValidString(value))
			}
		}
		if _, packed := table[packedHeader]; !packed {
			require.NotContains(t, m.Header, tagHeader)
			require.NotContains(t, m.Header, "x-delivery-count")
		}
		// What was read can be published again, and comes back.
		p, err := encode(&m, 0)
		if err != nil {
			require.ErrorIs(t, err, driver.TooLarge)
			return
		}
		again := decode(delivered(p, nil))
		require.Equal(t, m.Header, again.Header)
	})
}
