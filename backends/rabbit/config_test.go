package rabbit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-queue/holdfast/queue/driver"
)

func TestConfigDefaults(t *testing.T) {
	var c Config
	require.NoError(t, c.setDefaults())
	require.Equal(t, []endpoint{{addr: "localhost:5672", host: "localhost"}}, c.endpoints)
	require.Equal(t, "guest", c.user)
	require.Equal(t, "guest", c.password)
	require.Equal(t, "/", c.vhost)
	require.Nil(t, c.tlsConfig)
	require.Equal(t, Quorum, c.Type)
	require.Equal(t, 9, c.MaxPriority)
	require.Equal(t, 10*time.Second, c.Heartbeat)
	require.Equal(t, 30*time.Minute, c.ConsumerTimeout)
	require.Equal(t, 16<<20, c.MaxBytes)
	require.Equal(t, 10*time.Second, c.Timeout)
	require.False(t, c.Existing)
	require.Contains(t, c.Name, fmt.Sprint(os.Getpid()))
	require.NotNil(t, c.Dial)
	require.Same(t, slog.Default(), c.Logger)
}

func TestConfigURL(t *testing.T) {
	for raw, want := range map[string]struct {
		addrs                 string
		user, password, vhost string
	}{
		"amqp://":                            {"localhost:5672", "guest", "guest", "/"},
		"amqp://h":                           {"h:5672", "guest", "guest", "/"},
		"amqp://h/":                          {"h:5672", "guest", "guest", "/"},
		"amqp://h/%2f":                       {"h:5672", "guest", "guest", "/"},
		"amqp://h//":                         {"h:5672", "guest", "guest", "/"},
		"amqp://h/a%2Fb":                     {"h:5672", "guest", "guest", "a/b"},
		"amqp://h/v%40x":                     {"h:5672", "guest", "guest", "v@x"},
		"AMQPS://h":                          {"h:5671", "guest", "guest", "/"},
		"amqp://:5673/v":                     {"localhost:5673", "guest", "guest", "v"},
		"amqp://u:p@h1:1,h2,h3:3/v":          {"h1:1 h2:5672 h3:3", "u", "p", "v"},
		"amqp://u@h":                         {"h:5672", "u", "", "/"},
		"amqp://u:p:q@h":                     {"h:5672", "u", "p:q", "/"},
		"amqp://u:p@q@h":                     {"h:5672", "u", "p@q", "/"},
		"amqp://u%3a:%40%2f%3f%23%25%2C+@h":  {"h:5672", "u:", "@/?#%,+", "/"},
		"amqp://u:a,b@h":                     {"h:5672", "u", "a,b", "/"},
		"amqp://[::1]:5673,[fe80::1%25en0]/": {"[::1]:5673 [fe80::1%en0]:5672", "guest", "guest", "/"},
		"amqp://h?management=http://a:b@m:1": {"h:5672", "guest", "guest", "/"},
	} {
		t.Run(raw, func(t *testing.T) {
			c := Config{URL: raw}
			require.NoError(t, c.setDefaults())
			var addrs []string
			for _, e := range c.endpoints {
				addrs = append(addrs, e.addr)
				require.Equal(t, strings.HasPrefix(raw, "AMQPS"), e.tls)
				require.Equal(t, e.tls, c.tlsConfig != nil)
				require.NotContains(t, e.host, "[")
			}
			require.Equal(t, want.addrs, strings.Join(addrs, " "))
			require.Equal(t, []string{want.user, want.password, want.vhost}, []string{c.user, c.password, c.vhost})
		})
	}
}

func TestConfigParameters(t *testing.T) {
	const raw = "amqp://h/?heartbeat=5&type=classic&max_priority=3&consumer_timeout=45m&existing=true" +
		"&management=https%3A%2F%2Fu%3Ap%40m%3A15671&connection_timeout=1500&max_bytes=1000"
	c := Config{URL: raw}
	require.NoError(t, c.setDefaults())
	require.Equal(t, 5*time.Second, c.Heartbeat)
	require.Equal(t, Classic, c.Type)
	require.Equal(t, 3, c.MaxPriority)
	require.Equal(t, 45*time.Minute, c.ConsumerTimeout)
	require.True(t, c.Existing)
	require.Equal(t, "https://u:p@m:15671", c.Management)
	require.Equal(t, 1500*time.Millisecond, c.Timeout)
	require.Equal(t, 1000, c.MaxBytes)

	c = Config{URL: raw, Heartbeat: 2 * time.Second, Type: Quorum, MaxPriority: 7, ConsumerTimeout: time.Hour,
		Management: "http://m", Timeout: time.Second, MaxBytes: 5}
	require.NoError(t, c.setDefaults())
	require.Equal(t, 2*time.Second, c.Heartbeat)
	require.Equal(t, Quorum, c.Type)
	require.Equal(t, 7, c.MaxPriority)
	require.Equal(t, time.Hour, c.ConsumerTimeout)
	require.Equal(t, "http://m", c.Management)
	require.Equal(t, time.Second, c.Timeout)
	require.Equal(t, 5, c.MaxBytes)
}

// Every one of these is refused with a text that names what to change, and none of the texts holds a part of the
// password, however badly it was escaped.
func TestConfigRefused(t *testing.T) {
	for want, c := range map[string]Config{
		"amqp://":                   {URL: "u:s3cr3t@h"},
		"amqps://":                  {URL: "http://u:s3cr3t@h"},
		"begins with":               {URL: "u:s3cr3t://h"},
		"%25":                       {URL: "amqp://u:s3cr3t%zz@h"},
		"user: % is written":        {URL: "amqp://u%s3cr3t:p@h"},
		"%2F":                       {URL: "amqp://u:12/s3cr3t@h"},
		"port":                      {URL: "amqp://u:s3cr3t/x"},
		"%3F":                       {URL: "amqp://u:12?s3cr3t@h"},
		"written %3F":               {URL: "amqp://u:12?s3cr3t=@h/"},
		"%23":                       {URL: "amqp://u:s3cr3t#x@h"},
		"%20":                       {URL: "amqp://u:s3cr3t x@h"},
		"host 2: it is empty":       {URL: "amqp://u:s3cr3t@h,"},
		"host 1: its port":          {URL: "amqp://u:s3cr3t@h:0"},
		"65535":                     {URL: "amqp://u:s3cr3t@h:65536"},
		"host 1: an IPv6":           {URL: "amqp://u:s3cr3t@::1"},
		"[address]:port":            {URL: "amqp://u:s3cr3t@[::1]5672"},
		"host 1: it is no IPv6":     {URL: "amqp://u:s3cr3t@[::1%25%25]"},
		"host 1: it is no name":     {URL: "amqp://u:s3cr3t@h%41"},
		"virtual host: %":           {URL: "amqp://u:s3cr3t@h/%zz"},
		"parameters: ":              {URL: "amqp://u:s3cr3t@h/?a=%zz"},
		"unknown parameter hartbet": {URL: "amqp://u:s3cr3t@h/?hartbet=5"},
		"no word":                   {URL: "amqp://u:s3cr3t@h/?s3cr3t-x=5"},
		"heartbeat is given twice":  {URL: "amqp://u:s3cr3t@h/?heartbeat=5&heartbeat=6"},
		"heartbeat: it is a whole":  {URL: "amqp://u:s3cr3t@h/?heartbeat=0"},
		"heartbeat 19h0m0s":         {Heartbeat: 19 * time.Hour},
		"heartbeat 1.5s":            {Heartbeat: 1500 * time.Millisecond},
		"heartbeat -1s":             {Heartbeat: -time.Second},
		"max_priority: it is":       {URL: "amqp://u:s3cr3t@h/?max_priority=x"},
		"max priority 256":          {MaxPriority: 256},
		"max priority -1":           {MaxPriority: -1},
		"parameter type: it is":     {URL: "amqp://u:s3cr3t@h/?type=stream"},
		`queue type "stream"`:       {Type: "stream"},
		"consumer_timeout: it is":   {URL: "amqp://u:s3cr3t@h/?consumer_timeout=30"},
		"consumer timeout -1ns":     {ConsumerTimeout: -1},
		"existing: it is true":      {URL: "amqp://u:s3cr3t@h/?existing=maybe"},
		"max_bytes: it is":          {URL: "amqp://u:s3cr3t@h/?max_bytes=-1"},
		"max bytes -1":              {MaxBytes: -1},
		"connection_timeout: it is": {URL: "amqp://u:s3cr3t@h/?connection_timeout=99999999999"},
		"timeout -1ns":              {Timeout: -1},
		"management URL":            {Management: "://u:s3cr3t@h"},
		"15672":                     {Management: "amqp://u:s3cr3t@h"},
		"parameter verify is for":   {URL: "amqp://u:s3cr3t@h/?verify=verify_none"},
		"verify_peer or":            {URL: "amqps://u:s3cr3t@h/?verify=no"},
		"cacertfile: open":          {URL: "amqps://u:s3cr3t@h/?cacertfile=/missing"},
		"only of use together":      {URL: "amqps://u:s3cr3t@h/?certfile=/missing"},
		"certfile and keyfile:":     {URL: "amqps://u:s3cr3t@h/?certfile=/missing&keyfile=/missing"},
		"write amqps://":            {URL: "amqp://u:s3cr3t@h", TLS: new(tls.Config)},
	} {
		t.Run(want, func(t *testing.T) {
			err := c.setDefaults()
			require.ErrorIs(t, err, driver.Invalid)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "s3cr3t")
			require.NotContains(t, redacted(c.URL), "s3cr3t")
		})
	}
}

func TestConfigTLS(t *testing.T) {
	certFile, keyFile := writeTestCertificate(t)
	c := Config{URL: "amqps://h/?" + url.Values{
		"cacertfile": {certFile}, "certfile": {certFile}, "keyfile": {keyFile}, "server_name_indication": {"broker"},
	}.Encode()}
	require.NoError(t, c.setDefaults())
	require.Equal(t, "broker", c.tlsConfig.ServerName)
	require.Len(t, c.tlsConfig.Certificates, 1)
	require.False(t, c.tlsConfig.InsecureSkipVerify)
	pool := x509.NewCertPool()
	pool.AddCert(c.tlsConfig.Certificates[0].Leaf)
	require.True(t, pool.Equal(c.tlsConfig.RootCAs))

	c = Config{URL: "amqps://h/?verify=verify_none"}
	require.NoError(t, c.setDefaults())
	require.True(t, c.tlsConfig.InsecureSkipVerify)
	require.Nil(t, c.tlsConfig.RootCAs)

	own := &tls.Config{ServerName: "own"}
	c = Config{URL: "amqps://h/?verify=verify_none", TLS: own}
	require.NoError(t, c.setDefaults())
	require.Equal(t, "own", c.tlsConfig.ServerName)
	require.False(t, c.tlsConfig.InsecureSkipVerify)
	require.NotSame(t, own, c.tlsConfig)

	c = Config{URL: "amqps://h/?cacertfile=" + keyFile}
	require.ErrorContains(t, c.setDefaults(), "no certificate in PEM form")
}

func writeTestCertificate(t *testing.T) (certFile, keyFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return certFile, keyFile
}

func TestRedacted(t *testing.T) {
	require.Equal(t, "amqp://localhost:5672/", redacted(""))
	require.Equal(t, "amqps://h1:5671,[::1]:1/a%2Fb", redacted("amqps://user:pw@h1,[::1]:1/a%2Fb"))
	require.Equal(t, "amqp://h:5672/?heartbeat=5&management=http%3A%2F%2Fm%3A1",
		redacted("amqp://user:pw@h?management=http://user:pw@m:1/path&heartbeat=5&password=pw"))
	require.Equal(t, "(unreadable URL)", redacted("amqp://user:p/w@h"))
	require.NotContains(t, redacted("amqp://h?management=%3A%2F%2Fuser:pw@m"), "pw")
}

func FuzzParseURL(f *testing.F) {
	for _, raw := range []string{DefaultURL, "amqps://u:p@[::1]:1,h/v?verify=verify_none", "amqp://u:p/@h", "amqp://%"} {
		f.Add(raw, "s3cr3t")
	}
	f.Fuzz(func(t *testing.T, raw, password string) {
		if u, err := parseURL(raw); err == nil {
			require.NotEmpty(t, u.endpoints)
			again, err := parseURL(redacted(raw))
			require.NoError(t, err)
			require.Equal(t, u.endpoints, again.endpoints)
			require.Equal(t, u.vhost, again.vhost)
		}
		if len(password) < 12 { // a short one can be a word of the text
			password += "-s3cr3t-s3cr3t"
		}
		c := Config{URL: "amqp://u:" + password + "@h"} // not escaped
		if err := c.setDefaults(); err != nil {
			require.NotContains(t, err.Error(), password)
		}
		require.NotContains(t, redacted(c.URL), password)
	})
}
