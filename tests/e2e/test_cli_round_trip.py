"""CLI-001: a catalog goes in by `playbook-runs import`, is improved, and comes out by `export`."""

from tests.support.catalog_file import EXAMPLE, SEO, assert_only_seo_bytes_differ, assert_only_seo_filled, csv_rows
from tests.support.cli import Cli, refused


class TestCLI_001_RoundTrip:
    def test_import_both_playbooks_export(self, cli: Cli, project: str) -> None:
        imported = cli.json("import", EXAMPLE, "--plan", "BUSINESS")
        assert imported == [{"project_id": project, "created": 54, "updated": 0}]

        for playbook in ("missing_seo_title", "missing_seo_description"):
            preview = cli.json("create", "--playbook", playbook, "--type", "PREVIEW_GENERATE", "--watch")[-1]["run"]
            named = ("--playbook", playbook, "--scope-id", preview["scope_id"], "--rules-hash", preview["rules_hash"])
            assert cli.json("create", *named, "--type", "DRAFT_GENERATE", "--watch")[-1]["run"]["status"] == "SUCCEEDED"
            applied = cli.json("create", *named, "--type", "APPLY", "--watch")[-1]["run"]
            missing = sum(1 for row in csv_rows(EXAMPLE) if row["Title"] and not row[SEO["description" in playbook]])
            assert int(applied["result"]["updated"]) == missing

        exported = cli.json("export", "--catalog", EXAMPLE, "-o", "improved.csv")
        changed = sum(1 for row in csv_rows(EXAMPLE) if row["Title"] and not (row[SEO[0]] and row[SEO[1]]))
        assert exported == [{"file": "improved.csv", "products": 54, "changed": changed}]
        assert_only_seo_filled(EXAMPLE, cli.folder / "improved.csv")
        assert_only_seo_bytes_differ(EXAMPLE, cli.folder / "improved.csv")

        again = cli.json("import", "improved.csv")
        assert again == [{"project_id": project, "created": 0, "updated": 54}]
        refused(cli("export", "--catalog", EXAMPLE, "-o", "improved.csv"), "improved.csv", "there already")
        cli.ok("export", "--catalog", EXAMPLE, "-o", "improved.csv", "--force")

    def test_what_was_never_improved_comes_back_as_it_was(self, cli: Cli) -> None:
        cli.ok("import", EXAMPLE)
        assert "improved-shop-catalog.csv: 0 of 54" in cli.ok("export", "--catalog", EXAMPLE)
        assert (cli.folder / "improved-shop-catalog.csv").read_bytes() == EXAMPLE.read_bytes()
        assert "improved-shop-catalog-2.csv" in cli.ok("export", "--catalog", EXAMPLE)

    def test_export_without_the_original_gives_a_file_shopify_can_import(self, cli: Cli, project: str) -> None:
        cli.ok("import", EXAMPLE)
        cli.ok("export")
        exported = {row["Handle"]: row for row in csv_rows(cli.folder / f"catalog-{project}.csv")}
        originals = [row for row in csv_rows(EXAMPLE) if row["Title"]]
        assert len(exported) == len(originals)
        for original in originals:
            found = exported[original["Handle"]]
            assert list(found) == ["Handle", "Title", "Body (HTML)", *SEO]
            assert found == {column: original[column] for column in found}

    def test_import_says_what_is_missing(self, cli: Cli, project: str) -> None:
        assert cli.ok("import", EXAMPLE) == (
            f"54 products in {project}: 54 new, 0 brought up to date; "
            "37 without SEO title, 40 without SEO description\n"
        )
