"""
What the three ways to run the models cost, how many instances a load needs, and which way to choose. Pure.

    from jina_sm import advise

    advise.monthly("sagemaker", advise.Workload(tokens_per_month=50_000_000_000)).total
    advise.needed(advise.Load(requests_per_s=20, tokens=12, p99_s=0.5), "sagemaker").instances
    advise.recommend(advise.Needs(usage="search", security="account", requests_per_s=20)).way
"""

from __future__ import annotations

from jina_sm.advise.capacity import Capacity as Capacity
from jina_sm.advise.capacity import Fit as Fit
from jina_sm.advise.capacity import Load as Load
from jina_sm.advise.capacity import Measured as Measured
from jina_sm.advise.capacity import expected_s as expected_s
from jina_sm.advise.capacity import fitted as fitted
from jina_sm.advise.capacity import measured as measured
from jina_sm.advise.capacity import needed as needed
from jina_sm.advise.capacity import needed_with as needed_with
from jina_sm.advise.choice import Advice as Advice
from jina_sm.advise.choice import Needs as Needs
from jina_sm.advise.choice import recommend as recommend
from jina_sm.advise.cost import Cost as Cost
from jina_sm.advise.cost import Prices as Prices
from jina_sm.advise.cost import Vectors as Vectors
from jina_sm.advise.cost import Workload as Workload
from jina_sm.advise.cost import break_even as break_even
from jina_sm.advise.cost import monthly as monthly
from jina_sm.advise.cost import published as published
from jina_sm.advise.cost import rows as rows
