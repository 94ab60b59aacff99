package nats

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	natsgo "github.com/nats-io/nats.go"
)

// NATS headers are lines of text: no line ends, no space at either end of a value, printable ASCII names. A header
// that survives as it is goes out as it is, for plain clients to read. The rest is packed into one header: names and
// values, each with its length, in base64.
const (
	packedHeader = "Hf-Packed"
	natsHeaders  = "Nats-" // the server acts on these

	blockOverhead = len("NATS/1.0\r\n") + len("\r\n")
	lineOverhead  = len(": ") + len("\r\n")
	maxBlock      = 1<<16 - 1 // a stream refuses a longer header block
)

func plainHeader(name, value string) bool {
	return plainHeaderName(name) && plainHeaderValue(value)
}

func plainHeaderName(name string) bool {
	if name == "" {
		return false
	}
	for i := range len(name) {
		switch b := name[i]; {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '-', b == '_', b == '.':
		default:
			return false
		}
	}
	if len(name) >= len(natsHeaders) && strings.EqualFold(name[:len(natsHeaders)], natsHeaders) {
		return false
	}
	// Clients take a header Status for a message of the server.
	return !strings.EqualFold(name, packedHeader) && !strings.EqualFold(name, "Status") &&
		!strings.EqualFold(name, "Description")
}

func plainHeaderValue(value string) bool {
	if value != "" && (value[0] == ' ' || value[len(value)-1] == ' ') {
		return false
	}
	for i := range len(value) {
		if b := value[i]; b < ' ' || b > '~' {
			return false
		}
	}
	return true
}

// encodeHeaders is header as NATS headers, with room for the driver's own; nil if there is none.
func encodeHeaders(header map[string]string) natsgo.Header {
	if len(header) == 0 {
		return nil
	}
	h := make(natsgo.Header, len(header)+1)
	var rest []string
	for name, value := range header {
		if plainHeader(name, value) {
			h[name] = []string{value}
		} else {
			rest = append(rest, name)
		}
	}
	if len(rest) > 0 {
		slices.Sort(rest) // equal messages have equal headers
		var packed []byte
		for _, name := range rest {
			packed = appendText(appendText(packed, name), header[name])
		}
		h[packedHeader] = []string{base64.RawStdEncoding.EncodeToString(packed)}
	}
	return h
}

// decodeHeaders is the reverse of encodeHeaders. It leaves out the server's headers, and joins the values of a plain
// client's header that has several. What only looks packed is a plain client's header, and is delivered as it is.
func decodeHeaders(h natsgo.Header) map[string]string {
	header := make(map[string]string, len(h))
	for name, values := range h {
		if strings.HasPrefix(name, natsHeaders) || len(values) == 0 {
			continue
		}
		if name == packedHeader && len(values) == 1 {
			if packed, err := unpack(values[0]); err == nil {
				maps.Copy(header, packed)
				continue
			}
		}
		header[name] = strings.Join(values, ", ")
	}
	return header
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func unpack(text string) (map[string]string, error) {
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", packedHeader, err)
	}
	header := make(map[string]string)
	for len(b) > 0 {
		var name, value string
		var ok bool
		if name, b, ok = cutText(b); ok {
			value, b, ok = cutText(b)
		}
		if !ok {
			return nil, fmt.Errorf("%s: cut off", packedHeader)
		}
		header[name] = value
	}
	return header, nil
}

func cutText(b []byte) (string, []byte, bool) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return "", nil, false
	}
	b = b[used:]
	return string(b[:n]), b[n:], true
}

// blockSize is the number of bytes that the headers take on the wire.
func blockSize(h natsgo.Header) int {
	if len(h) == 0 {
		return 0
	}
	n := blockOverhead
	for name, values := range h {
		for _, value := range values {
			n += len(name) + len(value) + lineOverhead
		}
	}
	return n
}
