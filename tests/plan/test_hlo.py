"""What a program moves, read off its text: loops, slices, updates in place, collectives that are spelt out more than once."""

import pytest

from editr2_jax.plan import hlo

# A loop of 6 that brings a slice of stacked weights together and multiplies; the gathering is hidden behind a fusion.
PROGRAM = """\
HloModule jit_f

%slice_of (p0: bf16[6,256,1024], p1: s32[]) -> bf16[1,256,1024] {
  %p0 = bf16[6,256,1024]{2,1,0} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %cut = bf16[1,256,1024]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,256,1024}
}

%hidden (p0: bf16[1,256,1024], p1: bf16[8,1024]) -> (bf16[8,1024], bf16[1,1024,1024]) {
  %p0 = bf16[1,256,1024]{2,1,0} parameter(0)
  %p1 = bf16[8,1024]{1,0} parameter(1)
  %twice = bf16[8,1024]{1,0} add(%p1, %p1)
  %whole = bf16[1,1024,1024]{2,1,0} all-gather(%p0), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={1}
  ROOT %both = (bf16[8,1024]{1,0}, bf16[1,1024,1024]{2,1,0}) tuple(%twice, %whole)
}

%body (state: (s32[], bf16[8,1024], bf16[6,256,1024])) -> (s32[], bf16[8,1024], bf16[6,256,1024]) {
  %state = (s32[]{:T(128)}, bf16[8,1024]{1,0}, bf16[6,256,1024]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[8,1024]{1,0} get-tuple-element(%state), index=1
  %w = bf16[6,256,1024]{2,1,0} get-tuple-element(%state), index=2
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %layer = bf16[1,256,1024]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%slice_of
  %begun = (bf16[8,1024]{1,0}, bf16[1,1024,1024]{2,1,0}) fusion(%layer, %x), kind=kLoop, calls=%hidden
  %y = bf16[8,1024]{1,0} get-tuple-element(%begun), index=0
  %again = bf16[1,1024,1024]{2,1,0} all-gather(%layer), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={1}
  %fast = bf16[8,1024]{1,0:S(1)} multiply(%y, %y)
  ROOT %out = (s32[]{:T(128)}, bf16[8,1024]{1,0}, bf16[6,256,1024]{2,1,0}) tuple(%next, %y, %w)
}

%condition (state: (s32[], bf16[8,1024], bf16[6,256,1024])) -> pred[] {
  %state = (s32[]{:T(128)}, bf16[8,1024]{1,0}, bf16[6,256,1024]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: bf16[8,1024], w: bf16[6,256,1024]) -> bf16[8,1024] {
  %a = bf16[8,1024]{1,0} parameter(0)
  %w = bf16[6,256,1024]{2,1,0} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %state = (s32[]{:T(128)}, bf16[8,1024]{1,0}, bf16[6,256,1024]{2,1,0}) tuple(%start, %a, %w)
  %loop = (s32[]{:T(128)}, bf16[8,1024]{1,0}, bf16[6,256,1024]{2,1,0}) while(%state), condition=%condition, body=%body
  ROOT %y = bf16[8,1024]{1,0} get-tuple-element(%loop), index=1
}
"""
LAYER, ROWS, WHOLE = 256 * 1024 * 2, 8 * 1024 * 2, 1024 * 1024 * 2  # bytes


def test_a_collective_counts_once_however_often_it_is_spelt_out():
    sent = hlo.moved(PROGRAM).collectives
    assert sent == {"all-gather": pytest.approx(6 * WHOLE * 3 / 4)}  # the counter goes up by 2: six rounds to 12


def test_a_loop_reads_slices_and_fast_memory_is_free():
    slices = 2 * LAYER  # read out of the stack, and written
    hidden = 2 * ROWS  # the rows; the collective's buffers are passed on
    gathered = LAYER + WHOLE
    multiplied = 2 * ROWS  # both factors; the product stays in fast memory
    assert hlo.moved(PROGRAM).memory == pytest.approx(6 * (slices + hidden + gathered + multiplied) + 6 * 4 * 4)  # and the counters


def test_tiles_that_are_turned_while_a_slice_is_read_are_no_reading_of_the_stack():
    """As tpu7x reads one layer of stacked weights: the whole stack seems to be copied, onto itself."""
    turned = "  %turned = bf16[6,256,1024]{2,1,0:T(8,128)} fusion(%p0), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%copy\n"
    copy = """\
%copy (p: bf16[6,256,1024]) -> bf16[6,256,1024] {
  %p = bf16[6,256,1024]{2,1,0} parameter(0)
  ROOT %c = bf16[6,256,1024]{2,1,0:T(8,128)} copy(%p)
}

"""
    other = (
        PROGRAM.replace("%slice_of (p0", copy + "%slice_of (p0")
        .replace("  %zero =", turned + "  %zero =")
        .replace("dynamic-slice(%p0", "dynamic-slice(%turned")
    )
    assert other.count("%turned") == 2 and hlo.moved(other).memory == hlo.moved(PROGRAM).memory


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("%x = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%a), replica_groups={{0,1,2,3}}", {"all-gather": 256 * 3 / 4}),
        (
            "%x = ((f32[2,8]{1,0:T(8,128)}, bf16[8]{0}), (f32[8,8]{1,0:T(8,128)}, bf16[32]{0})) all-gather-start(%a, %b), "
            "replica_groups={{0,1,2,3}}",
            {"all-gather": (256 + 64) * 3 / 4},
        ),
        ("%x = f32[8]{0} all-reduce-start(%a), replica_groups={{0,1}}, to_apply=%add", {"all-reduce": 32}),
        ("%x = (f32[8]{0}, f32[24]{0}) all-reduce-start(%a, %b), replica_groups={{0,1}}, to_apply=%add", {"all-reduce": 32 + 96}),
        ("%x = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}", {"collective-permute": 32}),
    ],
)
def test_what_several_arrays_send_together_counts_in_whole(line, sent):
    text = f"ENTRY %main (a: f32[8]) -> f32[8] {{\n  %a = f32[8]{{0}} parameter(0)\n  {line}\n}}\n"
    assert hlo.moved(text).collectives == sent


@pytest.mark.parametrize(
    ("groups", "chips"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[2,8]<=[16]", 8),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", 4),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", 4),
    ],
)
def test_groups_are_read_in_every_spelling(groups, chips):
    assert hlo._group(f"%x = f32[8]{{0}} all-reduce(%y), {groups}, to_apply=%add") == chips


def test_a_group_in_another_spelling_is_refused_not_guessed():
    with pytest.raises(ValueError, match="cannot tell how many chips take part"):
        hlo._group("%x = f32[8]{0} all-reduce(%y), to_apply=%add")


def test_a_line_that_is_none_is_refused():
    with pytest.raises(ValueError, match="this is no line of a program"):
        hlo._closing("(never closed", 0)
