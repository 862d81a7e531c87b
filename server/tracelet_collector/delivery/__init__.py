from tracelet_collector.delivery.backoff import Patience
from tracelet_collector.delivery.course import Live
from tracelet_collector.delivery.scheduler import Delivery

__all__ = ["Delivery", "Live", "Patience"]
