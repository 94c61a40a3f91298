"""What edits do to scenes and to the lists of objects, by hand."""

import numpy as np
import pytest

from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.tabletop import edits, scene
from editr2_jax.tabletop.edits import Rule
from editr2_jax.tabletop.scene import Item, Place, Scene

TABLE = Scene(
    background="sand",
    items=(
        Item(kind="ball", name="red ball", places=(Place(0, 0),), colour="red"),
        Item(kind="box", name="wooden blue box", places=(Place(1, 1), Place(0, 2)), colour="blue", material="wooden"),
        Item(kind="sign", name="sign", places=(Place(2, 2),), glyph="K"),
    ),
)
COLOR = Edit(task_type="color_alter", object="red ball", value="teal")


def applied(edit, rule=None):
    return edits.apply(TABLE, edit, np.random.default_rng(0), rule=rule)


def cells(item):
    return [place.cell for place in item.places]


def test_add_takes_the_nearest_free_cell_on_the_named_side():
    after = applied(Edit(task_type="subject_add", object="metal pink star", place="left", reference="sign"))
    star = after.items[-1]
    assert (star.kind, star.colour, star.material, cells(star)) == ("star", "pink", "metal", [(2, 1)])
    assert after.items[:-1] == TABLE.items
    assert cells(applied(Edit(task_type="subject_add", object="pink star")).items[-1]) == [(0, 1)]
    with pytest.raises(ValueError, match="No free cell above"):
        applied(Edit(task_type="subject_add", object="pink star", place="above", reference="red ball"))


def test_a_colour_rule_colours_what_is_touched_and_only_that():
    rule = Rule("color", "green")
    after = applied(Edit(task_type="subject_add", object="star", place="below", reference="red ball"), rule)
    assert after.items[-1].colour == "green" and after.items[-1].name == "star" and after.items[:-1] == TABLE.items
    box = scene.find(applied(Edit(task_type="count_change", object="wooden blue box", count=3), rule), "wooden blue box")
    assert (box.count, box.colour, box.material) == (3, "green", "wooden")
    sign = scene.find(applied(Edit(task_type="text_change", old="K", carrier="sign", new="T"), rule), "sign")
    assert (sign.glyph, sign.colour) == ("T", "green")
    assert applied(Edit(task_type="position_change", object="sign", place="below", reference="red ball"), rule).items[2].colour == scene.INK


def test_both_the_rule_and_an_explicit_value_hold():
    ball = applied(COLOR, Rule("material", "stone")).items[0]
    assert (ball.name, ball.colour, ball.material) == ("teal ball", "teal", "stone")


def test_count_keeps_the_first_copies_and_grows_beside_them():
    fewer = applied(Edit(task_type="count_change", object="wooden blue box", count=1))
    assert cells(scene.find(fewer, "wooden blue box")) == [(0, 2)]
    more = applied(Edit(task_type="count_change", object="red ball", count=3))
    assert cells(scene.find(more, "red ball")) == [(0, 0), (0, 1), (1, 0)]
    with pytest.raises(ValueError, match="free cells"):
        applied(Edit(task_type="count_change", object="red ball", count=9))


def test_replace_keeps_the_place_and_remove_leaves_the_rest():
    after = applied(Edit(task_type="subject_replace", old="wooden blue box", new="pink ring"))
    ring = scene.find(after, "pink ring")
    assert cells(ring) == [(1, 1), (0, 2)] and (ring.kind, ring.colour, ring.material) == ("ring", "pink", "plastic")
    assert scene.names(applied(Edit(task_type="subject_remove", object="red ball"))) == ("wooden blue box", "sign")


def test_text_background_and_position():
    text = applied(Edit(task_type="text_change", new="E")).items[-1]
    assert (text.kind, text.glyph, text.colour) == ("text", "E", scene.INK)
    assert applied(Edit(task_type="background_change", value="sky")).items == TABLE.items
    moved = applied(Edit(task_type="position_change", object="red ball", place="above", reference="sign"))
    assert cells(moved.items[0]) == [(1, 2)]


@pytest.mark.parametrize(
    "edit",
    [
        Edit(task_type="subject_remove", object="dog"),
        Edit(task_type="subject_add", object="shiny dog"),
        Edit(task_type="background_change", value="moon"),
        Edit(task_type="paint"),
    ],
)
def test_an_impossible_edit_is_refused(edit):
    with pytest.raises(ValueError):
        applied(edit)


def test_renaming_replaces_the_first_word_that_tells_the_attribute():
    assert edits.rename("wooden red ball", "blue", scene.COLOURS) == "wooden blue ball"
    assert edits.rename("red ball", "wooden", scene.MATERIALS) == "wooden red ball"
    assert edits.rename("ball", "teal", scene.COLOURS) == "teal ball"
    assert edits.rename("reddish ball", "teal", scene.COLOURS) == "teal ball"  # a substring counts


def test_pools_follow_the_table_of_rules():
    pool = edits.start_pool(TABLE)
    for edit, unchanged, available, known in [
        (Edit(task_type="subject_add", object="ring"), "red ball|wooden blue box|sign", "red ball|wooden blue box|sign|ring", "+ring"),
        (Edit(task_type="text_change", new="E"), "red ball|wooden blue box|sign", "red ball|wooden blue box|sign|ring", "+E"),
        (COLOR, "wooden blue box|sign", "teal ball|wooden blue box|sign|ring", "+teal ball"),
        (Edit(task_type="text_change", old="K", carrier="sign", new="T"), "wooden blue box", "teal ball|wooden blue box|sign|ring", ""),
        (Edit(task_type="background_change", value="sky"), "wooden blue box", "wooden blue box|sign", ""),
        (Edit(task_type="position_change", object="sign", place="left", reference="wooden blue box"), "", "wooden blue box|sign", ""),
        (Edit(task_type="subject_replace", old="sign", new="cone"), "", "wooden blue box|cone", "+cone"),
        (Edit(task_type="subject_remove", object="cone"), "", "wooden blue box", ""),
    ]:
        before, pool = pool, edits.update_pool(pool, edit)
        assert "|".join(pool.unchanged) == unchanged and "|".join(pool.available) == available
        assert pool.known == before.known + ((known[1:],) if known else ())
