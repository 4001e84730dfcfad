"""The compiled scan of an item's claims: `read_claims`.

The statements of a property are a group. Of each the main snak, its rank and what
holds them together is read; qualifiers and each reference are jumped over to the
order of their properties, with which they end. That cannot be mistaken for what a
string holds, as in JSON a quote within one is escaped; nor is it sought beyond
``{"mainsnak":{"snaktype":"``, with which the next statement begins. What is jumped
over must be whole (`kg.wikidata.structure`), or damage could join the references of
two statements and take what lies between.
No type hints, and -1 for what is left to the reader, as in `kg.wikidata.jsonbytes`.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

from kg.wikidata.columns import PROPERTIES, SLOTS, STATEMENTS, USED
from kg.wikidata.jsonbytes import (
    after,
    after_code,
    after_flat_value,
    after_number,
    after_string,
    compiled,
    constant,
    find,
    number_of,
)
from kg.wikidata.structure import is_whole
from kg.wikidata.values import put_literal

__all__ = ["UNIT_TOLD", "is_empty", "read_claims"]

_TYPES, _ITEMS, _LITERALS, _SUBCLASSES = (USED.index(name) for name in ("types", "items", "literals", "subclasses"))
_ALL, _NOT_SELECTED, _NOT_KEPT, _DEPRECATED_ONES, _NOT_BEST, _NOVALUE, _SOMEVALUE, _OTHER_LANGUAGE, UNIT_TOLD = range(
    len(STATEMENTS) + 1
)
_INSTANCE_OF, _SUBCLASS_OF, _UNIT = 31, 279, 2370
_VALUE, _NO, _SOME = range(3)  # kinds of main snaks
_DEPRECATED, _NORMAL, _PREFERRED = range(3)
_QUOTE, _COMMA, _CLOSE_LIST = (ord(c) for c in '",]')

_STATEMENT = '{"mainsnak":{"snaktype":"'
_ORDER = ']},"qualifiers-order":["P'
_SNAKS_ORDER = ']},"snaks-order":["P'
_STATEMENT_BYTES, _ORDER_BYTES, _SNAKS_ORDER_BYTES = map(len, (_STATEMENT, _ORDER, _SNAKS_ORDER))


@compiled
def is_empty(data, place):
    """Whether an empty map or list stands here; PHP writes the former as the latter."""
    return after(data, place, "{}") > 0 or after(data, place, "[]") > 0


@compiled
def _is_new(number, document):
    """Note a property of the document; False if it was there before, or there are too many."""
    serial, count = document.state[0], document.state[1]
    if count == SLOTS // 2:
        return False
    mark = serial * PROPERTIES + number
    slot = (number * 2654435761) & (SLOTS - 1)
    while document.slots[slot] // PROPERTIES == serial:
        if document.slots[slot] == mark:
            return False
        slot = (slot + 1) & (SLOTS - 1)
    document.slots[slot] = mark
    document.properties[count] = number
    document.state[1] = count + 1
    return True


@compiled
def _after_item(data, place):
    """Read an item as a value; and its number."""
    place, number = after_number(data, after(data, place, '{"entity-type":"item","numeric-id":'))
    place, again = after_number(data, after(data, place, ',"id":"Q'))
    return after(data, place, '"},"type":"wikibase-entityid"}') if number == again else -1, number


@compiled
def _after_snak(data, place, number, rules):
    """Read the main snak of a property from behind ``"snaktype":"`` on.

    Returns:
        The offset behind it; its kind; the number of its datatype, or -1 for one that is not kept; of an item its
        number and 0, of any other value its beginning and end.
    """
    kind, first, last = _VALUE, 0, 0
    behind = after(data, place, 'value","property":"P')
    if behind < 0:
        kind = _NO
        behind = after(data, place, 'novalue","property":"P')
    if behind < 0:
        kind = _SOME
        behind = after(data, place, 'somevalue","property":"P')
    place, told = after_number(data, behind)
    if told != number:
        return -1, kind, -1, first, last
    place = after(data, place, '"')
    hashed = after(data, place, ',"hash":"')
    if hashed > 0:
        place = after_string(data, hashed)
    is_item = False
    if kind == _VALUE:
        first = after(data, place, ',"datavalue":{"value":')
        place, target = _after_item(data, first)
        is_item = place > 0
        if is_item:
            first = target
        elif first > 0:
            last = after_string(data, first + 1) if data[first] == _QUOTE else after_flat_value(data, first)
            place = after(data, after_code(data, after(data, last, ',"type":"')), "}")
    name = after(data, place, ',"datatype":"')
    place = after_code(data, name)
    if place < 0:
        return -1, kind, -1, first, last
    datatype = number_of(data, name, place - 1, rules.datatypes, rules.datatype, rules.datatype_ends)
    if kind == _VALUE and is_item != (datatype == 0):
        place = -1
    return place, kind, datatype, first, last


@compiled
def _next_statement(data, place, end):
    """Where the next statement begins, or the end."""
    place = find(data, place, end, constant(_STATEMENT), _STATEMENT_BYTES, 2, 7)
    return end if place < 0 else place


@compiled
def _after_order(data, place):
    """Read a list of properties from behind its first P on."""
    while True:
        place = after(data, after_number(data, place)[0], '"')
        if place < 0 or data[place] == _CLOSE_LIST:
            return after(data, place, "]")
        place = after(data, place, ',"P')


@compiled
def _after_qualifiers(data, place, end):
    """Jump over qualifiers, of which the order is the last; ``end``: where the next statement begins."""
    start, place = place, find(data, place, end, constant(_ORDER), _ORDER_BYTES, 5, 14)
    if place < 0 or not is_whole(data, start, place + 2, 0, 0):
        return -1
    return _after_order(data, place + _ORDER_BYTES)


@compiled
def _after_references(data, place, end):
    """Jump over references, of each of which the order is the last; ``end``: where the next statement begins."""
    while True:
        start, place = place, after(data, place, '{"hash":"')
        if place > 0:
            place = find(data, place, end, constant(_SNAKS_ORDER), _SNAKS_ORDER_BYTES, 5, 12)
        if place < 0 or not is_whole(data, start, place + 2, 1, 0):
            return -1
        place = after(data, _after_order(data, place + _SNAKS_ORDER_BYTES), "}")
        if place < 0 or data[place] == _CLOSE_LIST:
            return after(data, place, "]")
        place = after(data, place, ",")


@compiled
def _after_rank(data, place):
    """Read a rank from behind its first quote; and the rank."""
    behind = after(data, place, 'normal"')
    if behind > 0:
        return behind, _NORMAL
    behind = after(data, place, 'preferred"')
    if behind > 0:
        return behind, _PREFERRED
    return after(data, place, 'deprecated"'), _DEPRECATED


@compiled
def _append(row, number, rank, datatype, first, last, first_literal, columns, document):
    """Append a statement with a value."""
    used = columns.used
    if datatype == 0:
        at = used[_ITEMS]
        columns.item[3 * at], columns.item[3 * at + 1], columns.item[3 * at + 2] = row, number, first
        columns.item_rank[at] = rank
        used[_ITEMS] = at + 1
    else:
        at = used[_LITERALS]
        columns.literal[4 * at], columns.literal[4 * at + 1], columns.literal[4 * at + 2] = row, number, datatype
        columns.literal_rank[at] = rank
        document.values[2 * (at - first_literal)], document.values[2 * (at - first_literal) + 1] = first, last
        used[_LITERALS] = at + 1


@compiled
def _read_group(data, place, end, number, row, wanted, rules, columns, document):
    """Read the statements of one property from behind ``[`` on; append those with a value, whatever their rank.

    Returns:
        The offset of the next group, or of what is behind the claims; and the number of the datatype.
    """
    ranks = document.ranks
    for at in range(9):
        ranks[at] = 0
    first_literal = columns.used[_LITERALS]
    following = place
    datatype = -2
    while True:
        place, kind, told, first, last = _after_snak(data, after(data, place, _STATEMENT), number, rules)
        place = after(data, place, '},"type":"statement"')
        if place < 0 or (datatype != -2 and told != datatype):
            return -1, datatype
        datatype = told
        qualifiers = after(data, place, ',"qualifiers":{"P') - 3  # from the brace on
        if qualifiers > 0:
            following = _next_statement(data, place, end)
            place = _after_qualifiers(data, qualifiers, following)
        place = after_string(data, after(data, place, ',"id":"'))
        place, rank = _after_rank(data, after(data, place, ',"rank":"'))
        if place < 0:
            return -1, datatype
        ranks[3 * rank + kind] += 1
        if kind == _VALUE and datatype >= 0 and wanted:
            _append(row, number, rank, datatype, first, last, first_literal, columns, document)
        references = after(data, place, ',"references":[')
        if references > 0:
            if following < references:
                following = _next_statement(data, references, end)
            place = _after_references(data, references, following)
        place = after(data, place, "}")
        if place < 0 or data[place] == _COMMA:
            place = after(data, place, ",")
            continue
        behind = after(data, place, "]}")
        return (behind if behind > 0 else after(data, after(data, place, "],"), '"P') - 2), datatype


@compiled
def _keep_best_items(first, best, columns):
    """Drop the rows of a group of items that have not the best rank."""
    at = first
    for row in range(first, columns.used[_ITEMS]):
        if columns.item_rank[row] == best:
            for place in range(3):
                columns.item[3 * at + place] = columns.item[3 * row + place]
            columns.item_rank[at] = best == _PREFERRED
            at += 1
    columns.used[_ITEMS] = at


@compiled
def _keep_best_literals(data, first, best, rules, columns, document):
    """Drop the rows of a group of literals that have not the best rank, convert the others; False if one is odd."""
    used = columns.used
    end = used[_LITERALS]
    used[_LITERALS] = first
    for row in range(first, end):
        if columns.literal_rank[row] == best:
            value = 2 * (row - first)
            datatype = columns.literal[4 * row + 2]
            unit = put_literal(
                data, document.values[value], document.values[value + 1], rules.datatype_kinds[datatype], rules, columns
            )
            if unit == -1:
                return False
            if unit == -2:
                document.tally[_OTHER_LANGUAGE] += 1
                continue
            at = used[_LITERALS]
            for place in range(3):
                columns.literal[4 * at + place] = columns.literal[4 * row + place]
            columns.literal[4 * at + 3] = unit
            columns.literal_rank[at] = best == _PREFERRED
            used[_LITERALS] = at + 1
    return True


@compiled
def _name_classes(own, number, first_item, columns):
    """Append the objects of a group that names an item's types or superclasses, each once."""
    used = columns.used
    for row in range(first_item, used[_ITEMS]):
        target = columns.item[3 * row + 2]
        again = False
        for other in range(first_item, row):
            again |= columns.item[3 * other + 2] == target
        if again:
            continue
        if number == _INSTANCE_OF:
            columns.type[used[_TYPES]] = target
            used[_TYPES] += 1
        else:
            at = used[_SUBCLASSES]
            columns.subclass[2 * at], columns.subclass[2 * at + 1] = own, target
            used[_SUBCLASSES] = at + 1


@compiled
def _count(selected, datatype, best, document):
    """Count the statements of a group."""
    ranks, tally = document.ranks, document.tally
    count = 0
    for at in range(9):
        count += ranks[at]
    tally[_ALL] += count
    if not selected:
        tally[_NOT_SELECTED] += count
    elif datatype < 0:
        tally[_NOT_KEPT] += count
    else:
        deprecated = ranks[_VALUE] + ranks[_NO] + ranks[_SOME]
        chosen = ranks[3 * best] + ranks[3 * best + 1] + ranks[3 * best + 2]
        tally[_DEPRECATED_ONES] += deprecated
        tally[_NOT_BEST] += count - deprecated - chosen
        tally[_NOVALUE] += ranks[3 * best + _NO]
        tally[_SOMEVALUE] += ranks[3 * best + _SOME]


@compiled
def read_claims(data, place, end, own, row, rules, columns, document):
    """Read the claims of item ``own``, append what is kept of them as of entity ``row``, count the rest."""
    if place < 0 or is_empty(data, place):
        return place + 2 if place > 0 else -1
    place = after(data, place, "{")
    used, ranks = columns.used, document.ranks
    while True:
        place, number = after_number(data, after(data, place, '"P'))
        place = after(data, place, '":[')
        if place < 0 or number >= PROPERTIES or not _is_new(number, document):
            return -1
        selected = rules.selected[number]
        named = number == _INSTANCE_OF or (rules.classes and number == _SUBCLASS_OF)
        first_item, first_literal = used[_ITEMS], used[_LITERALS]
        place, datatype = _read_group(data, place, end, number, row, selected or named, rules, columns, document)
        if place < 0 or (named and datatype != 0):
            return -1
        best = _NORMAL
        if ranks[3 * _PREFERRED] + ranks[3 * _PREFERRED + 1] + ranks[3 * _PREFERRED + 2]:
            best = _PREFERRED
        _keep_best_items(first_item, best, columns)
        if not _keep_best_literals(data, first_literal, best, rules, columns, document):
            return -1
        if named:
            _name_classes(own, number, first_item, columns)
            if not selected:
                used[_ITEMS] = first_item
        document.tally[UNIT_TOLD] |= number == _UNIT
        _count(selected, datatype, best, document)
        if data[place] != _QUOTE:
            return place
