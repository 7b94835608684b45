"""The benchmarks' arithmetic: /proc, paired ratios, medians and bars."""

import math
import os
import subprocess
import sys
import time

import pytest

from benchmarks import measure
from benchmarks.measure import Bar, Cpu, Figure, Sample


def figure(ours: tuple[float, ...], theirs: tuple[float, ...], bar: Bar | None = None) -> Figure:
    return Figure("query", "CPU", "µs", ours, "PgBouncer", theirs, bar)


class TestProc:
    def test_stat_gives_user_and_system_seconds_whatever_the_program_is_called(self) -> None:
        tick = os.sysconf("SC_CLK_TCK")
        before = "4 (a ) b) S 1 4 4 0 -1 4194560 100 0 0 0"
        assert measure.parse_stat(f"{before} {3 * tick} {tick // 2} 7 9 20 0") == (3.0, 0.5)

    def test_status_gives_sizes_in_bytes(self) -> None:
        text = "Name:\tguard\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n"
        assert measure.parse_status(text, "VmRSS") == 1024 * 1024
        assert measure.parse_status(text, "VmHWM") == 2048 * 1024

    def test_a_size_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="VmRSS"):
            measure.parse_status("Name:\tguard\n", "VmRSS")

    def test_the_cpu_clock_of_a_process_counts_what_it_uses(self) -> None:
        before, clock = measure.cpu_of(os.getpid()), time.process_time()
        while time.process_time() - clock < 0.05:
            pass
        used = measure.cpu_of(os.getpid()) - before
        assert 0.05 <= used.total <= time.process_time() - clock + 0.05

    def test_the_kernels_part_is_counted(self) -> None:
        assert measure.cpu_of(os.getpid()).kernel >= 0

    def test_a_program_is_counted_with_the_processes_it_started(self) -> None:
        spin = "sum(range(3_000_000)); print(flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert child.pid in measure.family(os.getpid())
            alone = measure.cpu_of(os.getpid()).total
            assert measure.cpu_of_all(os.getpid()).total > alone
            child.communicate(b"\n")

    def test_what_was_used_between_is_the_difference(self) -> None:
        assert Cpu(3.0, 2.0) - Cpu(1.0, 0.5) == Cpu(2.0, 1.5)

    def test_logins_before_and_leaving_after_are_no_transactions_cpu(self) -> None:
        used = [(0.0, 0.0), (1.0, 5.0), (2.0, 6.0), (3.0, 7.0), (4.0, 20.0)]
        samples = [Sample(when, Cpu(total, total / 2)) for when, total in used]
        ends = [0.9, 1.5, 1.9, 2.5, 2.9, 3.1]
        assert measure.cpu_each(samples, ends) == Cpu(0.5, 0.25)

    def test_of_a_very_short_run_everything_counts(self) -> None:
        samples = [Sample(0.0, Cpu(0.0, 0.0)), Sample(1.0, Cpu(3.0, 0.0))]
        assert measure.cpu_each(samples, [0.2, 0.3, 0.4]) == Cpu(1.0, 0.0)

    def test_the_cpu_of_a_block_is_sampled_from_its_start_to_its_end(self) -> None:
        with measure.sampled_cpu(os.getpid()) as samples:
            sum(range(1_000_000))
        assert len(samples) >= 2
        assert samples[-1].cpu.total > samples[0].cpu.total

    def test_the_peak_starts_anew_when_it_is_forgotten(self) -> None:
        pid = os.getpid()
        ballast = bytearray(b"x" * 64_000_000)
        high = measure.peak_resident(pid)
        del ballast
        measure.forget_peak(pid)
        assert measure.peak_resident(pid) < high
        assert measure.resident(pid) > 0


class TestRatios:
    def test_each_round_is_compared_with_itself(self) -> None:
        assert measure.paired_ratios([2.0, 30.0], [1.0, 10.0]) == [2.0, 3.0]

    def test_a_round_without_its_pair_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            measure.paired_ratios([1.0, 2.0], [1.0])

    def test_the_median_stands_against_one_disturbed_round(self) -> None:
        # Both sides were ten times slower in the second round: the ratio does not notice.
        slow = figure((2.0, 20.0, 2.2), (2.0, 20.0, 2.0))
        assert slow.ratio is not None
        assert slow.ratio.median == 1.0
        assert slow.ratio.high < 1.2

    def test_nothing_over_nothing_is_equal(self) -> None:
        assert measure.paired_ratios([0.0, 2.0], [0.0, 0.0]) == [1.0, math.inf]

    def test_percentiles_are_values_that_were_there(self) -> None:
        assert [measure.percentile([3, 1, 2, 4], p) for p in (0, 50, 99, 100)] == [1, 2, 4, 4]
        assert math.isnan(measure.percentile([], 50))

    def test_without_a_rival_there_is_no_ratio(self) -> None:
        assert figure((1.0,), ()).ratio is None


class TestBars:
    @pytest.mark.parametrize(
        ("bar", "value", "verdict"),
        [
            (Bar("<=", 1.3), 1.3, "holds"),
            (Bar("<=", 1.3), 1.43, "misses by 10%"),
            (Bar(">=", 8), 8.0, "holds"),
            (Bar(">=", 8), 6.0, "misses by 25%"),
            (Bar("<=", 0), 3.0, "misses by 3"),
        ],
    )
    def test_a_bar_says_whether_it_holds_or_by_how_much_not(
        self, bar: Bar, value: float, verdict: str
    ) -> None:
        assert bar.verdict(value) == verdict

    def test_a_bar_is_held_against_the_median_ratio(self) -> None:
        bar = Bar("<=", 1.3)
        assert figure((1.0, 1.2, 9.0), (1.0, 1.0, 1.0), bar).verdict == "holds"
        assert figure((1.0, 1.56, 9.0), (1.0, 1.0, 1.0), bar).verdict == "misses by 20%"

    def test_a_bar_on_our_own_value_needs_no_rival(self) -> None:
        own = Bar("<=", 16, of="ours")
        assert figure((15.0,), (), own).verdict == "holds"
        assert figure((24.0,), (1.0,), own).verdict == "misses by 50%"

    def test_no_bar_or_no_rival_is_neither_yes_nor_no(self) -> None:
        assert figure((1.0,), (1.0,)).verdict is None
        assert figure((1.0,), (), Bar("<=", 1.3)).verdict is None
