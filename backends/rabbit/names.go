package rabbit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Names on the broker have at most 255 bytes. A queue's name is taken as it is and holds no '~'; everything else of the
// queue is its name, a '~' and more, so no two queues share a name on the broker.
const (
	maxQueueName = 120
	maxToken     = 120

	laneMark  = "~lane~"
	delayMark = "~delay~"
)

// names are the broker's names of one queue's parts.
type names struct {
	queue string
}

func newNames(queue string) (names, error) {
	var err error
	switch {
	case queue == "":
		err = errors.New("a queue needs a name")
	case !utf8.ValidString(queue):
		err = errors.New("name of the queue is not UTF-8")
	case len(queue) > maxQueueName:
		err = fmt.Errorf("name of the queue %.40q... has %d bytes, of at most %d", queue, len(queue), maxQueueName)
	case strings.Contains(queue, "~"):
		err = fmt.Errorf("name of the queue %q: '~' separates the names of a queue's parts", queue)
	case strings.HasPrefix(queue, "amq."):
		err = fmt.Errorf("name of the queue %q: the broker keeps names with amq. for itself", queue)
	case strings.ContainsFunc(queue, func(r rune) bool { return r < ' ' || r == 0x7f }):
		// The broker drops line ends, so that two queues would be one.
		err = fmt.Errorf("name of the queue %q has a control character", queue)
	}
	if err != nil {
		return names{}, invalid("", err)
	}
	return names{queue: queue}, nil
}

// lane is the AMQP queue of a lane. A lane that token refuses has one too, so that callers check a lane only once.
func (n names) lane(lane string) string {
	if lane == "" {
		return n.queue
	}
	return n.queue + laneMark + n.key(lane)
}

// key is the routing key of a lane in the exchange.
func (n names) key(lane string) string {
	t, err := token(lane)
	if err != nil {
		return hashed(lane)
	}
	return t
}

// exchange is the direct exchange that messages are published to.
func (n names) exchange() string { return n.queue }

// hints is the fanout exchange that says where messages arrived.
func (n names) hints() string { return n.queue + "~hints" }

// will is the queue of the last will of a process that waits.
func (n names) will(id string) string { return n.queue + "~will~" + id }

// registry is the stream that lists the lanes.
func (n names) registry() string { return n.queue + "~lanes" }

// delay is the queue where messages of a delay class wait, and the fanout exchange that leads there.
func (n names) delay(class time.Duration) string {
	return n.queue + delayMark + strconv.FormatInt(class.Milliseconds(), 10)
}

// token is a lane's name as a part of names on the broker, and its routing key. Bytes other than A-Z, a-z, 0-9, '_',
// '-', '/' and '.' are percent-encoded. '/' and '.' stay for readability: a direct exchange compares whole keys, it
// gives no byte a meaning. A token that would be too long is a hash, told apart by a '~', which is never left as it is.
func token(lane string) (string, error) {
	if !utf8.ValidString(lane) {
		return "", invalid("", fmt.Errorf("name of the lane %.40q is not UTF-8", lane))
	}
	n := len(lane)
	for i := range len(lane) {
		if !plainByte(lane[i]) {
			n += 2
		}
	}
	switch {
	case n > maxToken:
		return hashed(lane), nil
	case n == len(lane):
		return lane, nil
	}
	const hexDigits = "0123456789ABCDEF"
	t := make([]byte, 0, n)
	for i := range len(lane) {
		if b := lane[i]; plainByte(b) {
			t = append(t, b)
		} else {
			t = append(t, '%', hexDigits[b>>4], hexDigits[b&15])
		}
	}
	return string(t), nil
}

func hashed(lane string) string {
	sum := sha256.Sum256([]byte(lane))
	return "~" + hex.EncodeToString(sum[:])
}

func plainByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' ||
		b == '_' || b == '-' || b == '/' || b == '.'
}

// laneOf is the reverse of token. It reports false for a hash and for what token never returns.
func laneOf(t string) (string, bool) {
	lane, err := url.PathUnescape(t)
	if err != nil {
		return "", false
	}
	if again, err := token(lane); err != nil || again != t {
		return "", false
	}
	return lane, true
}

// Messages with a delay wait in queues whose messages all wait equally long, one queue a class, because the broker lets
// nothing pass the head of a queue. There are sixteen classes an octave: a message is at most a sixteenth late.
const (
	minDelay  = 64 * time.Millisecond
	lastClass = 31 << 26 * time.Millisecond // the last class that fits the broker's 32 bits: 24 days and two hours
)

// delayClass is the shortest class of at least d; lastClass for a d above it, which callers refuse.
func delayClass(d time.Duration) time.Duration {
	if d <= minDelay {
		return minDelay
	}
	if d >= lastClass {
		return lastClass
	}
	ms := int64((d + time.Millisecond - 1) / time.Millisecond)
	step := classStep(ms)
	return time.Duration((ms+step-1)/step*step) * time.Millisecond
}

// classStep is the distance of the classes in the octave that ends at or after ms, which is above minDelay.
func classStep(ms int64) int64 {
	octave := bits.Len64(uint64(ms - 1)) // ms is in (1<<(octave-1), 1<<octave]
	return 1 << (octave - 5)
}

// delayClasses are the classes up to that of most, ascending.
func delayClasses(most time.Duration) []time.Duration {
	var classes []time.Duration
	last := delayClass(most)
	for class := minDelay; class < last; class = delayClass(class + 1) {
		classes = append(classes, class)
	}
	return append(classes, last)
}
