# What a guest does when it has booted, by the phase that the kernel's command line names. Whatever is printed here goes to the host, which
# takes the output of tests for its own, and lines that begin with == for news of the guest.
cd /vm || exit 1
phase=$(sed -n 's/.*portsyncd\.phase=\([a-z]*\).*/\1/p' /proc/cmdline)
only=$(cat only)
export CI=vm PORTSYNCD=/vm/portsyncd-v1.0.0-vm PORTSYNCD_TEST_KERNEL=yes GOTRACEBACK=all HOME=/root

# $1: the group's name; $2…: a test binary and which of its tests.
group() {
	echo "== group $1"
	shift
	binary=$1
	shift
	"$binary" -test.v -test.parallel 1 -test.timeout 45m "$@"
	echo "== exit $?"
}

case $phase in
tests)
	modprobe netdevsim
	echo "== kernel $(uname -srm), $(systemctl --version | head -n 1), $(redis-server --version | cut -d ' ' -f 1-3), up for $(cut -d ' ' -f 1 /proc/uptime) s"
	group systemd ./guest.test -test.skip PowerCut -test.run "${only:-.}"
	group kernel ./portsyncd.test -test.run "${only:-TestKernel}"
	group end-to-end ./portsyncd.test -test.run "${only:-$(cat e2e)}" -test.skip 'TestTLSDocument|TestKernel'
	if [ -x portsyncd-arm7.test ]; then
		group armv7 ./portsyncd-arm7.test -test.run "${only:-Recorded|Parsing|BrokenMessages|Errno|OverrunMessage|FuzzDatagram}" -test.short
		PORTSYNCD=/vm/portsyncd-arm7
		# not the storms: they take an emulated machine minutes
		group armv7-end-to-end ./portsyncd.test -test.run "${only:-$(cat e2e)}" -test.skip 'TestTLSDocument|TestKernel|TestStopped|TestRedisReturns'
	fi
	cp -r testdata /run/testdata
	(cd /run && group recording /vm/portsyncd.test -test.run TestRecordedMessages -record links-kinds)
	for file in links-kinds.bin links-kinds.txt; do
		if [ -s /run/testdata/$file ]; then echo "== file $file $(base64 -w 0 /run/testdata/$file)"; fi
	done
	if [ -z "$only" ] || [ "$only" = PowerCut ]; then group power-cut ./guest.test -test.run 'TestStormUntilPowerCut$'; fi
	;;
powercut)
	group power-cut ./guest.test -test.run 'TestAfterPowerCut$'
	;;
esac
echo '== done'
