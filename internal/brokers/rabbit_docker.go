package brokers

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// The images of compose.yaml.
var rabbitImages = map[string]string{
	"4.3": "rabbitmq:4.3.6-management",
	"4.0": "rabbitmq:4.0.9-management",
}

// A rabbitInDocker is an attached `docker run --rm`, which hands SIGTERM on to the broker and so ends the container.
type rabbitInDocker struct {
	nursery *nursery
	conf    string // a file
	run     *process
	said    bytes.Buffer // read when run has ended
}

func startInDocker(ctx context.Context, o RabbitOptions) (c *RabbitCluster, err error) {
	if o.Nodes > 1 || o.TLS || o.Dir != "" {
		return nil, fmt.Errorf("%w: in a container there is one node, without TLS or a directory of one's own", ErrFixed)
	}
	name := "holdfast-" + strings.ToLower(rand.Text())
	box := &rabbitInDocker{nursery: newNursery()}
	defer func() {
		if err != nil {
			err = errors.Join(err, box.close())
		}
	}()
	if box.conf, err = writeConf(o.Conf); err != nil {
		return nil, err
	}
	cmd := exec.Command("docker", "run", "--rm", "--name", name, "--hostname", "localhost",
		"--publish", "127.0.0.1::5672", "--publish", "127.0.0.1::15672",
		"--volume", box.conf+":/etc/rabbitmq/conf.d/90-holdfast.conf:ro", rabbitImages[o.Version])
	cmd.Stderr = &box.said
	if box.run, err = box.nursery.start(cmd, syscall.SIGTERM); err != nil {
		return nil, fmt.Errorf("%w: docker: %w", ErrUnavailable, err)
	}
	amqp, err := box.published(ctx, name, "5672/tcp")
	if err != nil {
		return nil, err
	}
	management, err := box.published(ctx, name, "15672/tcp")
	if err != nil {
		return nil, err
	}
	e := endpoints{amqp: "amqp://guest:guest@" + amqp + "/", management: "http://guest:guest@" + management}
	return &RabbitCluster{how: Container, nodes: []endpoints{e}, box: box}, nil
}

// writeConf makes a file that the container's user can read.
func writeConf(text string) (name string, err error) {
	f, err := os.CreateTemp("", "holdfast-rabbit-*.conf")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text + "\n")
	return f.Name(), errors.Join(err, f.Chmod(0o644), f.Close())
}

// published waits until the container runs, which includes the download of its image, and says where a port of it is.
func (b *rabbitInDocker) published(ctx context.Context, name, port string) (at string, err error) {
	err = poll(ctx, func() (bool, error) {
		if !b.run.running() {
			return false, fmt.Errorf("%w: docker run: %s", ErrUnavailable, tail(b.said.String(), 5))
		}
		out, err := exec.CommandContext(ctx, "docker", "port", name, port).Output()
		at, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
		return err == nil && at != "", nil
	})
	return at, err
}

func (b *rabbitInDocker) close() error {
	var err error
	if b.run != nil {
		err = b.run.end(syscall.SIGTERM, time.Minute)
	}
	b.nursery.close()
	if b.conf != "" {
		err = errors.Join(err, os.Remove(b.conf))
	}
	return err
}
