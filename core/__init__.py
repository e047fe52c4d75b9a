"""Values, errors, ports, settings, ids, money and clock: what every layer shares.

Above: everything. Below: nothing of ours. This package must not know Ray, SQL, HTTP or any
provider; it may use the values of ``langchain_core`` (messages), which are the field's own.
"""
