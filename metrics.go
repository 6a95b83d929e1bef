package main

import (
	"runtime"
	"slices"
	"strings"
	"time"
)

// checkNames are the rows of the health table, and the values of the label check.
var checkNames = [...]string{"netlink", "overrun", "redis", "queue", "reconcile", "differs", "lock", "loop", "memory", "web", "recorder"}

// ofProcess says that a row of the health table is about the process, not about a namespace.
func ofProcess(check string) bool { return check == "memory" || check == "web" }

// onlyOfNamespaces says that it is about namespaces only. The process's own netlink is about their list.
func onlyOfNamespaces(check string) bool { return check != "netlink" && !ofProcess(check) }

// The states of a warm restart, as the field state of WARM_RESTART_TABLE|portsyncd has them. A cold start writes disabled, as intfmgrd,
// vrfmgrd, buffermgrd and fpmsyncd do.
const (
	warmDisabled    = "disabled"
	warmInitialized = "initialized" // asked for, nothing read yet
	warmRestored    = "restored"    // STATE_DB's entries are read back, as the baseline
	warmReconciled  = "reconciled"  // the kernel was listed, every configured port seen, and STATE_DB agrees
)

var warmStates = [...]string{warmDisabled, warmInitialized, warmRestored, warmReconciled}

// metrics is the daemon's whole metric set: every name, label and help text is in newMetrics' table, and
// a test holds docs/metrics.md against it. The rest of the daemon only sets fields, and all of them are atomic.
type metrics struct {
	*exposition
	version   string
	namespace string // of the ports; empty: the process looks after one only

	eventsProcessed, eventsFailed counter
	queueDepth, health            gauge
	healthChecks                  [len(checkNames)]gauge
	checked                       *vector // of these
	redisConnected                gauge
	netlinkConnected              gauge
	eventLatency, redisLatency    *histogram

	ports portSet

	messages, malformed, overruns                                                counter
	ignoredName, ignoredBridge, ignoredTeam                                      counter
	ignoredOld, ignoredMaster                                                    counter
	resyncStart, resyncOverrun, resyncFailed, resyncInterrupted, resyncReconcile counter
	resyncNamespace                                                              counter
	repairChanged, repairLost, repairStale, repairLate                           counter
	redisCommands, redisErrors, redisReconnects                                  counter
	portsConfigured, portsPresent                                                gauge
	portConfigDone, portInitDone, warmStart                                      gauge
	httpPanics, httpEvicted, httpRefused, tlsRefused, logDropped                 counter
	httpConnections, tlsReloadOK, tlsExpiry                                      gauge
	tlsNotAfter                                                                  vector // empty without TLS

	warmState                        [len(warmStates)]gauge
	warmKept, warmRepaired, warmGone counter
	eoiuReached, eoiuSeconds         gauge

	recorded [len(causes)]counter

	instanceUp, instanceWriter vector // of all that are known, by this process

	process *process
}

// newMetrics makes the set of a process that looks after one namespace.
func newMetrics(version string) *metrics {
	return newMetricSet(version, "", openProcess(), checkNames[:])
}

// newUnitMetrics makes the set of one namespace of several, beside that of the process. What the process has once is not
// rendered from here.
func newUnitMetrics(all *metrics, namespace string) *metrics {
	return newMetricSet(all.version, namespace, all.process, slices.DeleteFunc(slices.Clone(checkNames[:]), ofProcess))
}

// newProcessMetrics makes the set that a process has beside those of its namespaces.
func newProcessMetrics(version string) *metrics {
	return newMetricSet(version, "", openProcess(), slices.DeleteFunc(slices.Clone(checkNames[:]), onlyOfNamespaces))
}

// newMetricSet makes the set that has these rows of the health table.
func newMetricSet(version, namespace string, process *process, checks []string) *metrics {
	const ms = time.Millisecond
	m := &metrics{
		version:      version,
		namespace:    namespace,
		eventLatency: newHistogram(ms, 5*ms, 10*ms, 50*ms, 100*ms, 500*ms, 1000*ms),
		redisLatency: newHistogram(ms, 5*ms, 10*ms, 50*ms, 100*ms),
		process:      process,
	}
	m.checked = m.checks(checks)
	port, reason := []string{"port"}, []string{"reason"}
	m.exposition = newExposition([]family{
		{"portsyncd_events_processed_total", counterKind, nil, "Link messages of ports whose outcome is durable: written and acknowledged, or found to need no write.", &m.eventsProcessed},
		{"portsyncd_events_failed_total", counterKind, nil, "Link messages of ports whose write failed, each counted once; it is retried.", &m.eventsFailed},
		{"portsyncd_port_flaps_total", counterKind, port, "Times the port's carrier went down after it was first seen up, by the kernel's own count.", &portFamily{&m.ports, flapsPart}},
		{"portsyncd_queue_depth", gaugeKind, nil, "Ports whose state is not written yet.", &m.queueDepth},
		{"portsyncd_memory_bytes", gaugeKind, nil, "Resident memory of the daemon in bytes.", &m.process.memory},
		{"portsyncd_health_status", gaugeKind, nil, "Health: 1 ok, 0.5 degraded, 0 failed.", &m.health},
		{"portsyncd_redis_connected", gaugeKind, nil, "Whether the databases answer.", &m.redisConnected},
		{"portsyncd_netlink_connected", gaugeKind, nil, "Whether the subscription to the kernel's link messages stands.", &m.netlinkConnected},
		{"portsyncd_event_latency_seconds", histogramKind, nil, "From the reception of a port's link message to its durable outcome.", m.eventLatency},
		{"portsyncd_redis_latency_seconds", histogramKind, nil, "Duration of a round trip to a database, with all the commands it carried.", m.redisLatency},

		{"portsyncd_port_oper_up", gaugeKind, port, "Whether the port's interface is running (IFF_RUNNING).", &portFamily{&m.ports, operUpPart}},
		{"portsyncd_port_admin_up", gaugeKind, port, "Whether the port's interface is set up (IFF_UP).", &portFamily{&m.ports, adminUpPart}},
		{"portsyncd_port_mtu_bytes", gaugeKind, port, "The interface's MTU.", &portFamily{&m.ports, mtuPart}},
		{"portsyncd_port_last_change_timestamp_seconds", gaugeKind, port, "When admin state, oper state or MTU last changed, or the interface appeared.", &portFamily{&m.ports, lastChangePart}},
		{"portsyncd_port_pending", gaugeKind, port, "Whether a configured port still waits for its first host interface; PortInitDone waits for these.", &portFamily{&m.ports, pendingPart}},

		{"portsyncd_health_check", gaugeKind, []string{"check"}, "Each check of the health table: 1 ok, 0.5 degraded, 0 failed.", m.checked},
		{"portsyncd_netlink_messages_total", counterKind, nil, "Datagrams received from the kernel's link subscription.", &m.messages},
		{"portsyncd_netlink_ignored_total", counterKind, reason, "Link messages that do not count, by the rule that says so.", m.byLabel("reason", map[string]*counter{
			"not_a_port": &m.ignoredName, "bridge_family": &m.ignoredBridge, "team": &m.ignoredTeam, "old_interface": &m.ignoredOld, "has_master": &m.ignoredMaster})},
		{"portsyncd_netlink_malformed_total", counterKind, nil, "Messages dropped because they made no sense or did not come from the kernel.", &m.malformed},
		{"portsyncd_netlink_overruns_total", counterKind, nil, "Times the kernel had to drop link messages because they were not read in time.", &m.overruns},
		{"portsyncd_resyncs_total", counterKind, reason, "Dumps of all links taken, by reason.", m.byLabel("reason", map[string]*counter{
			"start": &m.resyncStart, "overrun": &m.resyncOverrun, "interrupted": &m.resyncInterrupted, "failed": &m.resyncFailed, "namespace": &m.resyncNamespace, "reconcile": &m.resyncReconcile})},
		{"portsyncd_repairs_total", counterKind, []string{"kind"}, "Entries found wrong by comparison and put right.", m.byLabel("kind", map[string]*counter{
			"changed": &m.repairChanged, "lost": &m.repairLost, "stale": &m.repairStale, "late_port": &m.repairLate})},
		{"portsyncd_recorder_events_total", counterKind, []string{"cause"}, "What the flight recorder took down of ports, by cause.", m.recordedVector()},
		{"portsyncd_redis_commands_total", counterKind, nil, "Commands sent to the databases.", &m.redisCommands},
		{"portsyncd_redis_errors_total", counterKind, nil, "Round trips to a database that failed.", &m.redisErrors},
		{"portsyncd_redis_reconnects_total", counterKind, nil, "Connections to the databases made again.", &m.redisReconnects},
		{"portsyncd_ports_configured", gaugeKind, nil, "Ports in CONFIG_DB.", &m.portsConfigured},
		{"portsyncd_ports_present", gaugeKind, nil, "Ports that have an interface in the kernel.", &m.portsPresent},
		{"portsyncd_port_config_done", gaugeKind, nil, "Whether PortConfigDone was sent, or needs no sending on a warm start.", &m.portConfigDone},
		{"portsyncd_port_init_done", gaugeKind, nil, "Whether PortInitDone was sent.", &m.portInitDone},
		{"portsyncd_warm_start", gaugeKind, nil, "Whether this start was warm.", &m.warmStart},

		{"portsyncd_warm_restart_state", gaugeKind, []string{"state"}, "1 for the state that the warm restart is in, as in WARM_RESTART_TABLE|portsyncd.", m.warmStateVector()},
		{"portsyncd_warm_restart_entries_total", counterKind, []string{"outcome"}, "Entries of STATE_DB that a warm start found and what became of them.", m.byLabel("outcome", map[string]*counter{
			"kept": &m.warmKept, "repaired": &m.warmRepaired, "removed": &m.warmGone})},
		{"portsyncd_eoiu_reached", gaugeKind, nil, "Whether the initial update has ended: the kernel's links were listed to the end.", &m.eoiuReached},
		{"portsyncd_eoiu_seconds", gaugeKind, nil, "How long the initial update took.", &m.eoiuSeconds},
		{"portsyncd_http_connections", gaugeKind, nil, "Open connections to the metrics server.", &m.httpConnections},
		{"portsyncd_http_closed_total", counterKind, reason,
			"Connections closed for want of a slot: the one idle longest, or the new one if all of its peer's are at work.",
			m.byLabel("reason", map[string]*counter{"evicted": &m.httpEvicted, "refused": &m.httpRefused})},
		{"portsyncd_http_panics_total", counterKind, nil, "Requests whose handler panicked.", &m.httpPanics},
		{"portsyncd_tls_refused_total", counterKind, nil, "Clients turned away in the TLS handshake; the log says why.", &m.tlsRefused},
		{"portsyncd_tls_last_reload_successful", gaugeKind, nil, "Whether the TLS files were usable when they were last looked at; if not, the old ones are in force. 0 without TLS.", &m.tlsReloadOK},
		{"portsyncd_tls_certificate_not_after_timestamp_seconds", gaugeKind, nil, "When the server's certificate expires. Absent without TLS.", &m.tlsNotAfter},

		{"portsyncd_instance_up", gaugeKind, []string{"instance"}, "Whether an instance has told of itself lately. Absent without -standby and -instance.", &m.instanceUp},
		{"portsyncd_instance_writer", gaugeKind, []string{"instance"}, "Whether an instance writes, with the label namespace of several. Absent without -standby and -instance.", &m.instanceWriter},
		{"portsyncd_log_lines_dropped_total", counterKind, nil, "Log lines lost because nobody took them in time.",
			&m.logDropped},
		{"portsyncd_build_info", gaugeKind, []string{"version", "goversion", "goarch"}, "Always 1; the labels say what is running.",
			constant("version", version, "goversion", runtime.Version(), "goarch", runtime.GOARCH)},
		{"process_cpu_seconds_total", counterKind, nil, "Total user and system CPU time spent in seconds.", &m.process.cpu},
		{"process_open_fds", gaugeKind, nil, "Number of open file descriptors.", &m.process.openFDs},
		{"process_max_fds", gaugeKind, nil, "Maximum number of open file descriptors.", &m.process.maxFDs},
		{"process_virtual_memory_bytes", gaugeKind, nil, "Virtual memory size in bytes.", &m.process.virtual},
		{"process_resident_memory_bytes", gaugeKind, nil, "Resident memory size in bytes.", &m.process.memory},
		{"process_start_time_seconds", gaugeKind, nil, "Start time of the process since unix epoch in seconds.", &m.process.started},
		{"go_info", gaugeKind, []string{"version"}, "Information about the Go environment.", constant("version", runtime.Version())},
		{"go_goroutines", gaugeKind, nil, "Number of goroutines that currently exist.", &m.process.goroutines},
		{"go_threads", gaugeKind, nil, "Number of OS threads of the process.", &m.process.threads},
		{"go_memstats_alloc_bytes", gaugeKind, nil, "Number of bytes allocated in heap and currently in use.", &m.process.heapAlloc},
		{"go_memstats_heap_inuse_bytes", gaugeKind, nil, "Number of heap bytes that are in use.", &m.process.heapInuse},
		{"go_memstats_sys_bytes", gaugeKind, nil, "Number of bytes obtained from system.", &m.process.sys},
	})
	if namespace != "" {
		m.base = m.labels()
	}
	return m
}

// labels renders label, value pairs behind that of the namespace.
func (m *metrics) labels(pairs ...string) string {
	if m.namespace != "" {
		pairs = append([]string{"namespace", m.namespace}, pairs...)
	}
	return labelSet(pairs...)
}

// byLabel makes the vector of a family whose only label has a fixed set of values.
func (m *metrics) byLabel(label string, counters map[string]*counter) *vector {
	v := new(vector)
	for value, c := range counters {
		v.Add(m.labels(label, value), c)
	}
	return v
}

// recordedVector makes the vector of the recorder's events.
func (m *metrics) recordedVector() *vector {
	v := new(vector)
	for i, name := range causes {
		v.Add(m.labels("cause", strings.ReplaceAll(strings.ToLower(name), " ", "_")), &m.recorded[i])
	}
	return v
}

// checks makes the vector of rows of the health table.
func (m *metrics) checks(names []string) *vector {
	v := new(vector)
	for i, name := range checkNames {
		if slices.Contains(names, name) {
			v.Add(m.labels("check", name), &m.healthChecks[i])
		}
	}
	return v
}

// warmStateVector makes the vector of the warm restart's states.
func (m *metrics) warmStateVector() *vector {
	v := new(vector)
	for i, name := range warmStates {
		v.Add(m.labels("state", name), &m.warmState[i])
	}
	return v
}

// constant makes the vector of an information family: one series that is always 1.
func constant(labels ...string) *vector {
	v, one := new(vector), new(gauge)
	one.Set(1)
	v.Add(labelSet(labels...), one)
	return v
}

// ofProcess says that a family is about the process, and there once however many namespaces it looks after.
func (f *family) ofProcess() bool {
	for _, prefix := range []string{"process_", "go_", "portsyncd_http_", "portsyncd_tls_", "portsyncd_log_", "portsyncd_instance_",
		"portsyncd_build_", "portsyncd_memory_", "portsyncd_health_status"} {
		if strings.HasPrefix(f.name, prefix) {
			return true
		}
	}
	return false
}

// Append renders everything, after reading what the process itself has to say.
func (m *metrics) Append(b []byte) []byte {
	m.process.Read()
	return m.exposition.Append(b)
}

// showLink and hideLink put the series in and out that exist while the port has an interface.
func (m *metrics) showLink(s *portSeries) { m.ports.set(s, &s.present, true) }
func (m *metrics) hideLink(s *portSeries) { m.ports.set(s, &s.present, false) }

// showPending and hidePending are for the series that exists while the port is configured.
func (m *metrics) showPending(s *portSeries) { m.ports.set(s, &s.configured, true) }

func (m *metrics) hidePending(s *portSeries) {
	m.ports.set(s, &s.configured, false)
	s.alias.Store(nil)
}

// hide puts all series of a port out.
func (m *metrics) hide(s *portSeries) {
	m.hideLink(s)
	m.hidePending(s)
}

// trim gives memory back after ports have come or gone.
func (m *metrics) trim() { m.ports.trim() }

// newPort makes a port's series; they are shown when there is something to show.
func (m *metrics) newPort(name string, flaps uint64) *portSeries {
	return newPortSeries(name, m.labels("port", name), flaps)
}

// Pending names the configured ports that have no interface yet.
func (m *metrics) Pending() (ports []string) {
	for _, s := range m.ports.all() {
		if s.configured.Load() && s.pending.Load() == 1 {
			ports = append(ports, s.name)
		}
	}
	slices.SortFunc(ports, comparePorts)
	return ports
}

// comparePorts orders Ethernet8 before Ethernet12: by length, then by text.
func comparePorts(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
