"""Which functions SQL from outside may call: those that compute from their arguments and nothing else.

DuckDB declares of each function whether it always gives the same for the same arguments. Those that
do, all aggregates and all window functions are allowed, minus what was found by going through them
one by one; of the others only what is listed. So a function of a later DuckDB that reads settings,
files, the environment or the catalog is refused until somebody has looked at it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import duckdb

TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})
"""Functions that may stand where a table stands; they give rows one by one."""

# The same for all rows of a query, or random.
_NOT_PURE: Final = {
    "current_date",
    "current_localtime",
    "current_localtimestamp",
    "get_current_time",
    "get_current_timestamp",
    "now",
    "today",
    "transaction_timestamp",
    "random",
    "uuid",
    "uuidv4",
    "uuidv7",
    "gen_random_uuid",
}

# Macros over allowed functions, and what the parser knows and the catalog does not.
_MACROS: Final = {
    "ago",
    "array_append",
    "array_pop_back",
    "array_pop_front",
    "array_prepend",
    "array_push_back",
    "array_push_front",
    "array_reverse",
    "array_to_string",
    "date_add",
    "days_in_month",
    "fdiv",
    "fmod",
    "generate_subscripts",
    "geomean",
    "geometric_mean",
    "if",
    "json",
    "json_group_array",
    "json_group_object",
    "json_group_structure",
    "list_any_value",
    "list_append",
    "list_approx_count_distinct",
    "list_avg",
    "list_bit_and",
    "list_bit_or",
    "list_bit_xor",
    "list_bool_and",
    "list_bool_or",
    "list_count",
    "list_entropy",
    "list_first",
    "list_histogram",
    "list_kurtosis",
    "list_kurtosis_pop",
    "list_last",
    "list_mad",
    "list_max",
    "list_median",
    "list_min",
    "list_mode",
    "list_prepend",
    "list_product",
    "list_reverse",
    "list_sem",
    "list_skewness",
    "list_stddev_pop",
    "list_stddev_samp",
    "list_string_agg",
    "list_sum",
    "list_var_pop",
    "list_var_samp",
    "map_contains_entry",
    "map_contains_value",
    "md5_number_lower",
    "md5_number_upper",
    "nullif",
    "regexp_split_to_table",
    "split_part",
    "wavg",
    "weighted_avg",
    "unnest",
}

# Declared pure, and yet they parse or plan SQL, make types, or show DuckDB's inside.
_INTERNAL: Final = {
    "json_serialize_sql",
    "json_serialize_plan",
    "json_deserialize_sql",
    "parse_duckdb_log_message",
    "version",
    "combine",
    "combine_aggr",
    "finalize",
    "to_aggregate_state",
    "create_sort_key",
    "icu_sort_key",
    "index_key",
    "alias",
    "invoke",
    "cast_to_type",
    "replace_type",
    "make_type",
    "can_cast_implicitly",
}

# One call makes a value of any size, past the memory limit and deaf to the time limit (1.5 GB in 24 s seen).
_UNBOUNDED: Final = {
    "repeat",
    "lpad",
    "rpad",
    "format",
    "printf",
    "list_resize",
    "array_resize",
    "bitstring",
    "range",
    "generate_series",
}


@lru_cache(maxsize=1)
def allowed_functions() -> frozenset[str]:
    """Scalar, aggregate and window functions that a query may call, in lower case."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name), function_type, stability FROM duckdb_functions()"
        ).fetchall()
    aggregates = {name for name, kind, _ in rows if kind in {"aggregate", "window"}}
    scalars = {name for name, kind, _ in rows if kind == "scalar" and not name.startswith("__")}
    changing = {name for name, kind, stability in rows if kind == "scalar" and stability != "CONSISTENT"}
    pure = (scalars | aggregates) - changing - _INTERNAL - _UNBOUNDED
    return frozenset(pure | _NOT_PURE | _MACROS)
