"""An import-linter contract: two sides of a package that share some modules and nothing else."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class SidesContract(Contract):
    """Every module of the package is on one side: `server`, `shared`, or else the other one.

    A module may import its own side and the shared one; the shared one imports only itself. Unlike a
    ``forbidden`` contract it needs no list of the other side's modules, so a new module is covered
    from the day it is written.
    """

    type_name = "sides"

    server = fields.SetField(subfield=fields.StringField())
    shared = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Looks at direct imports: a chain from one side to the other has one that crosses."""
        crossings = []
        for importer in sorted(graph.modules):
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                there = self._side(imported)
                if there not in ("shared", self._side(importer)):
                    crossings.append((importer, imported))
        lines = [
            detail
            for importer, imported in crossings
            for detail in graph.get_import_details(importer=importer, imported=imported)
        ]
        return ContractCheck(kept=not crossings, metadata={"lines": lines})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["lines"]:
            importer, imported = line["importer"], line["imported"]
            output.print_error(
                f"{importer} ({self._side(importer)}) is not allowed to import "
                f"{imported} ({self._side(imported)}): line {line['line_number']}",
                bold=False,
            )

    def _side(self, module: str) -> str:
        for side in ("server", "shared"):
            for member in getattr(self, side):
                if module == member or module.startswith(f"{member}."):
                    return side
        return "notebook"
