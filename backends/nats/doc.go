// Package nats is the NATS JetStream backend.
package nats
