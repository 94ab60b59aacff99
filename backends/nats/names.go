package nats

import (
	"fmt"
	"strings"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

// Names of queues and lanes become tokens of subjects and names of streams and consumers, and those become names of
// directories. A token keeps a-z, 0-9 and '-' and writes every other byte as '=' and two hexadecimal digits. So no
// two names share a token, not even on a file system that takes A for a.
const (
	maxToken  = 220 // so that a consumer's name, with its epoch, stays below the server's 255
	emptyLane = "_" // no name encodes to it
	hexDigits = "0123456789abcdef"
)

func plainByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '-'
}

// encodeName is the token of a name, for names of any bytes.
func encodeName(name string) string {
	n := 0
	for i := range len(name) {
		if !plainByte(name[i]) {
			n++
		}
	}
	if n == 0 {
		return name
	}
	token := make([]byte, 0, len(name)+2*n)
	for i := range len(name) {
		if b := name[i]; plainByte(b) {
			token = append(token, b)
		} else {
			token = append(token, '=', hexDigits[b>>4], hexDigits[b&15])
		}
	}
	return string(token)
}

// decodeName is the reverse of encodeName. It reports false for what encodeName never returns.
func decodeName(token string) (string, bool) {
	name := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		b := token[i]
		if b != '=' {
			if !plainByte(b) {
				return "", false
			}
			name = append(name, b)
			continue
		}
		if i+2 >= len(token) {
			return "", false
		}
		hi, lo := strings.IndexByte(hexDigits, token[i+1]), strings.IndexByte(hexDigits, token[i+2])
		if hi < 0 || lo < 0 || plainByte(byte(hi<<4|lo)) {
			return "", false
		}
		name = append(name, byte(hi<<4|lo))
		i += 2
	}
	return string(name), true
}

func laneToken(lane string) (string, error) {
	if lane == "" {
		return emptyLane, nil
	}
	token := encodeName(lane)
	if len(token) > maxToken {
		return "", tooLong("lane", lane, token)
	}
	return token, nil
}

func laneOf(token string) (string, bool) {
	if token == emptyLane {
		return "", true
	}
	if token == "" {
		return "", false
	}
	return decodeName(token)
}

func tooLong(what, name, token string) error {
	return fmt.Errorf("name of the %s %.40q... takes %d bytes as a NATS token, of at most %d "+
		"(a byte other than a-z, 0-9 and '-' takes three)", what, name, len(token), maxToken)
}

// names are the server's names of one queue's parts.
type names struct {
	queue     string
	stream    string // messages
	states    string // stream of what Nack leaves for the next delivery
	subjects  string // all of the stream's subjects
	lanes     string // the part of subjects that is delivered; "<lanes><token>" is a lane's subject
	delayed   string // the part of subjects where messages wait for their time
	hints     string // where the server repeats the headers of what is stored in a lane
	stateRoot string // subject of the state of the message with sequence n: "<stateRoot>n"
}

func (c *Config) names(queue string) (names, error) {
	if queue == "" {
		return names{}, &driver.Error{Kind: driver.Invalid, Err: fmt.Errorf("a queue needs a name")}
	}
	token := encodeName(queue)
	if len(token) > maxToken {
		return names{}, &driver.Error{Kind: driver.Invalid, Err: tooLong("queue", queue, token)}
	}
	upper := strings.ToUpper(c.Prefix)
	return names{
		queue:     queue,
		stream:    upper + "_" + token,
		states:    upper + "-STATE_" + token,
		subjects:  c.Prefix + "." + token + ".>",
		lanes:     c.Prefix + "." + token + ".l.",
		delayed:   c.Prefix + "." + token + ".d.",
		hints:     c.Prefix + "-hint." + token + ".",
		stateRoot: c.Prefix + "-state." + token + ".",
	}, nil
}

// laneOfSubject is the lane of a subject under lanes or hints.
func laneOfSubject(subject, root string) (string, bool) {
	token, ok := strings.CutPrefix(subject, root)
	if !ok {
		return "", false
	}
	return laneOf(token)
}
