"""Alerts: rules over stored spans and scores, judged window by window, and told to people once.

    fields, rules (what a rule is)  <-  observe (rules to SQL)  <-  judge (states; with evidence)  <-  evaluator, backtest
    book (the tables)   messages (what is said)   channels over egress (who is told)   deliveries (until they are)
    desk (what people do with alerts)   service (threads and figures inside a collector)

Not ingest's business: it reads the store beside it, and stops, fails and catches up without touching it.
"""

from cutaway_collector.alerts.desk import Desk, read_document
from cutaway_collector.alerts.fields import RuleError
from cutaway_collector.alerts.service import Alerts

__all__ = ["Alerts", "Desk", "RuleError", "read_document"]
