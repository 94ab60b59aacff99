package crew

// rssBytes converts Rusage.Maxrss, which Linux counts in kibibytes.
func rssBytes(maxrss int64) int64 { return maxrss * 1024 }
