package main

// Exit codes of the daemon,
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // flags or configuration
)

// of portsyncd status, which ends with exitOK or exitUnsure otherwise, as portsyncd events does,
const exitNotWell = 1 // degraded or failed

// and of portsyncd diff.
const (
	exitAgree  = 0
	exitDiffer = 1
	exitUnsure = 2 // also for its flags
)
