"""The demo: the CRM of examples/crm on a throwaway cluster, told as a person would."""


def run(*, keep_open: bool) -> None: ...
