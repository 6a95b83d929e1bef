package main

import "context"

// What a loop does about CONFIG_DB's settings of the log.

// fillLogger writes SONiC's defaults for what is missing, for an operator to find and change. No port waits for a
// CONFIG_DB that cannot be written.
func (s *mirror) fillLogger(ctx context.Context, l logSettings) error {
	filled := l.filled()
	if filled == l || s.options.observe {
		return nil
	}
	return s.db.SetLogger(ctx, filled)
}

// followLogger takes up what CONFIG_DB says, and why the defaults could not be written: that is tried again with the
// next look.
func (s *mirror) followLogger(l logSettings, unfilled error) {
	if unfilled != nil && !s.loggerOwed {
		s.log.Warn("the defaults of the log's settings cannot be written to CONFIG_DB, trying again now and then",
			"err", unfilled)
	}
	s.loggerOwed = unfilled != nil
	if l = l.filled(); s.options.logger != nil && l != s.logger {
		s.options.logger(l)
	}
	s.logger = l
}
