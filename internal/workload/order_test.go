package workload

import (
	"bytes"
	"compress/gzip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOrderHasTheSizeAskedFor(t *testing.T) {
	j := Job{Seq: 42, Run: 1500 * time.Microsecond, Fail: 1, Poison: true, Crash: true}
	bare, err := j.Body()
	require.NoError(t, err)
	require.JSONEq(t, `{"seq":42,"run_us":1500,"fail":1,"poison":true,"crash":true}`, string(bare))
	for size := range 3 * len(bare) {
		j.BodyBytes = size
		body, err := j.Body()
		require.NoError(t, err)
		require.Len(t, body, max(size, len(bare)))
		o, err := DecodeOrder(body)
		require.NoError(t, err)
		require.Equal(t, j.Order(), o)
	}
}

func TestPaddingHardlyCompresses(t *testing.T) {
	body, err := Order{Seq: 1}.Encode(20_000)
	require.NoError(t, err)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(body)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.Greater(t, packed.Len(), 14_000)
	other, err := Order{Seq: 2}.Encode(20_000)
	require.NoError(t, err)
	require.NotEqual(t, body[100:], other[100:])
}

func TestOrderFails(t *testing.T) {
	require.True(t, Order{Fail: 2}.Fails(1))
	require.False(t, Order{Fail: 2}.Fails(2))
	require.True(t, Order{Poison: true}.Fails(99))
}

func TestForeignBodiesAreRefused(t *testing.T) {
	for _, body := range []string{
		"", "hello", "{}", `{"seq":1}`, `{"run_us":1}`, `{"seq":-1,"run_us":1}`, `{"seq":1,"run_us":-1}`,
		`{"seq":1,"run_us":1,"fail":-1}`, `{"seq":1,"run_us":9223372036854775807}`, `{"seq":1,"run_us":1,"x":1}`,
		`{"seq":1,"run_us":1} {}`, `{"seq":1.5,"run_us":1}`, "null", "[]",
	} {
		_, err := DecodeOrder([]byte(body))
		require.Error(t, err, body)
	}
}

func FuzzDecodeOrder(f *testing.F) {
	for _, j := range []Job{{}, {Seq: 3, Run: time.Second, Fail: 2, BodyBytes: 99}, {Poison: true, Crash: true, BodyBytes: 30}} {
		body, err := j.Body()
		require.NoError(f, err)
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := DecodeOrder(body)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, o.Run, time.Duration(0))
		again, err := o.Encode(len(body))
		require.NoError(t, err)
		same, err := DecodeOrder(again)
		require.NoError(t, err)
		require.Equal(t, o, same)
	})
}
