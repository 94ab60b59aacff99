package rabbit

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestQueueNames(t *testing.T) {
	for _, queue := range []string{"jobs", "a.b/c d", "ünï", "amq", strings.Repeat("x", 120)} {
		n, err := newNames(queue)
		require.NoError(t, err, queue)
		require.Equal(t, queue, n.queue)
	}
	for _, queue := range []string{"", "\xff", "a~b", "~", "amq.x", "a\nb", "a\rb", "\x00", "\x7f", strings.Repeat("x", 121)} {
		_, err := newNames(queue)
		require.ErrorIs(t, err, driver.Invalid, "%q", queue)
	}
}

func TestNames(t *testing.T) {
	n, err := newNames("jobs")
	require.NoError(t, err)
	require.Equal(t, "jobs", n.lane(""))
	require.Empty(t, n.key(""))
	require.Equal(t, "jobs~lane~p10/tacme", n.lane("p10/tacme"))
	require.Equal(t, "p10/tacme", n.key("p10/tacme"))
	require.Equal(t, "jobs~lane~a%20%7E%25%23%2A%C3%A9.b", n.lane("a ~%#*é.b"))
	require.Equal(t, "jobs", n.exchange())
	require.Equal(t, "jobs~hints", n.hints())
	require.Equal(t, "jobs~lanes", n.registry())
	require.Equal(t, "jobs~delay~64", n.delay(64*time.Millisecond))
	require.Equal(t, "jobs~delay~2080374784", n.delay(delayClass(24*24*time.Hour)))

	_, err = token("\xff")
	require.ErrorIs(t, err, driver.Invalid)
	require.LessOrEqual(t, len(n.lane("\xff")), 255)
}

func TestLaneOfRefuses(t *testing.T) {
	for _, s := range []string{"%", "%4", "%zz", "%41", "%c3%a9", "%FF", "a b", "~", hashed("x"), strings.Repeat("a", 121)} {
		_, ok := laneOf(s)
		require.False(t, ok, s)
	}
}

// laneGen draws names of lanes, many of them near the limits or close to one another.
func laneGen() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringN(0, 50, -1),
		rapid.StringOfN(rapid.RuneFrom([]rune("aA%~/.é 0")), 0, 130, -1),
		rapid.Custom(func(t *rapid.T) string {
			s, _ := token(rapid.StringOfN(rapid.RuneFrom([]rune("aé~")), 0, 60, -1).Draw(t, "lane of token"))
			return s
		}),
	)
}

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lane := laneGen().Draw(t, "lane")
		s, err := token(lane)
		require.NoError(t, err)
		require.LessOrEqual(t, len(s), maxToken)
		require.True(t, utf8.ValidString(s))
		back, ok := laneOf(s)
		if strings.HasPrefix(s, "~") {
			require.False(t, ok)
			require.Len(t, s, 65)
			return
		}
		require.NotContains(t, s, "~")
		require.True(t, ok)
		require.Equal(t, lane, back)
	})
}

func TestNamesNeverCollide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		queueGen := rapid.OneOf(rapid.Just(strings.Repeat("q", 120)),
			rapid.StringOfN(rapid.RuneFrom([]rune("ab.-lanedhits%é")), 1, 20, -1))
		queues := rapid.SliceOfNDistinct(queueGen, 2, 2, rapid.ID).Draw(t, "queues")
		lanes := rapid.SliceOfNDistinct(laneGen(), 2, 5, rapid.ID).Draw(t, "lanes")
		seen := make(map[string]string)
		for _, queue := range queues {
			n, err := newNames(queue)
			require.NoError(t, err)
			keys := make(map[string]bool)
			all := map[string]string{"registry": n.registry(), "delay": n.delay(minDelay), "longer": n.delay(lastClass)}
			for _, lane := range lanes {
				all["lane "+lane] = n.lane(lane)
				keys[n.key(lane)] = true
			}
			all["lane "] = n.queue
			all["hints"] = n.hints()
			require.Len(t, keys, len(lanes))
			for what, name := range all {
				require.LessOrEqual(t, len(name), 255)
				require.Empty(t, seen[name], name)
				seen[name] = queue + " " + what
			}
		}
	})
}

func TestDelayClass(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		-1: 64, 0: 64, 64 * time.Millisecond: 64, 64*time.Millisecond + 1: 68, 127 * time.Millisecond: 128,
		128 * time.Millisecond: 128, 129 * time.Millisecond: 136, time.Second: 1024, time.Minute: 61440,
		24 * 24 * time.Hour: 2080374784, 1<<63 - 1: 2080374784,
	} {
		require.Equal(t, want*time.Millisecond, delayClass(d), d)
	}
	require.Less(t, lastClass.Milliseconds(), int64(1<<31))
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, int64(lastClass)).Draw(t, "delay"))
		class := delayClass(d)
		require.GreaterOrEqual(t, class, d)
		require.Zero(t, class%time.Millisecond)
		require.Equal(t, class, delayClass(class))
		if d >= minDelay {
			require.LessOrEqual(t, class-d, d/16+time.Millisecond)
		}
		require.LessOrEqual(t, class, delayClass(d+1)) // never shorter for a longer delay
	})
}

func TestDelayClasses(t *testing.T) {
	require.Equal(t, []time.Duration{minDelay}, delayClasses(0))
	all := delayClasses(lastClass)
	require.Len(t, all, 1+24*16+15)
	require.Equal(t, lastClass, all[len(all)-1])
	octave := 0
	for i, class := range all {
		require.Equal(t, class, delayClass(class))
		if i > 0 {
			require.Greater(t, class, all[i-1])
			require.Equal(t, class, delayClass(all[i-1]+1)) // none left out
		}
		if class > time.Minute && class <= 2*time.Minute {
			octave++
		}
	}
	require.InDelta(t, 16, octave, 1)
	require.Equal(t, all[:len(delayClasses(time.Minute))], delayClasses(time.Minute))
}
