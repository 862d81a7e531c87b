"""Makes the kind `ledger` known to whichever Python imports this as it starts."""

from tracelet_collector.exporters import table

from tests.support.ledger import ENTRY

table.EXPORTERS["ledger"] = ENTRY  # type: ignore[index]  # only here it is not final
