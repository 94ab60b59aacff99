// Package middleware has handlers around handlers, for queue.Chain. Each is a file.
package middleware
