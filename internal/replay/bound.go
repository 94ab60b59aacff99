package replay

import (
	"cmp"
	"slices"
	"time"
)

// lowerBound returns an instant before which no schedule can be done, however clever: the later of
//
//   - the arrival of a job, plus its run time for as often as it must be started, plus the delays in between, for the
//     job for which that is the latest;
//   - when the slots there are could have done all starts that must be, if none of them was ever idle since the first
//     arrival.
//
// Jobs lost with their worker are not counted again: a cleverer schedule might have had others there. So this is
// max(longest, last arrival + its job, total / slots), with failures and with workers that come and go.
func lowerBound(in *Input, jobs []Outcome) time.Duration {
	if len(jobs) == 0 {
		return 0
	}
	var bound, total, longestRun time.Duration
	first := jobs[0].Arrival
	for i, j := range in.Jobs {
		bound = max(bound, jobs[i].Arrival+chain(in, i))
		total += j.SlotTime(in.Retry)
		longestRun = max(longestRun, j.Run)
		first = min(first, jobs[i].Arrival)
	}
	return max(bound, filled(in, first, total, longestRun))
}

// chain returns how long job i takes from its arrival if a slot is always free for it.
func chain(in *Input, i int) time.Duration {
	j := in.Jobs[i]
	d := j.SlotTime(in.Retry)
	if j.Crash {
		return d + time.Duration(j.Starts(in.Retry))*in.Detect
	}
	for failure := 1; failure < j.Starts(in.Retry); failure++ {
		if in.RetryDelay != nil {
			d += max(0, in.RetryDelay(failure, j))
		} else {
			d += in.Retry.Delay(failure)
		}
	}
	return d
}

// filled returns when slots that are busy from first on, while they are up, have worked for total. A worker that is not
// killed finishes what it has, so that each of its slots may work for one job longer.
func filled(in *Input, first, total, longestRun time.Duration) time.Duration {
	type change struct {
		at    time.Duration
		slots int
	}
	var changes []change
	for _, w := range in.Workers {
		if w.Slots <= 0 || w.Down > 0 && w.Down <= w.Up {
			continue
		}
		changes = append(changes, change{max(w.Up, first), w.Slots})
		if w.Down > 0 {
			end := w.Down
			if !w.Killed {
				end += longestRun
			}
			changes = append(changes, change{max(end, first), -w.Slots})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	now, slots := first, 0
	for _, c := range changes {
		if done := time.Duration(slots) * (c.at - now); done < total {
			total -= done
			now, slots = c.at, slots+c.slots
			continue
		}
		break
	}
	if slots <= 0 {
		return now
	}
	return now + total/time.Duration(slots)
}
