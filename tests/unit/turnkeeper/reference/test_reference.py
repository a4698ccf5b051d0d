from turnkeeper.reference import pages as reference


def test_the_reference_pages_are_up_to_date():
    assert reference.stale(reference.ROOT) == []


def test_a_page_that_is_stale_is_named_and_rewritten(tmp_path, capsys):
    assert reference.main(["--check", "--root", str(tmp_path)]) == 1
    assert "docs/reference/states.md is stale" in capsys.readouterr().err
    assert reference.main(["--root", str(tmp_path)]) == 0
    assert reference.main(["--check", "--root", str(tmp_path)]) == 0
    (tmp_path / ".env.example").write_text("LOG_LEVEL=INFO\n")
    assert reference.main(["--check", "--root", str(tmp_path)]) == 1


def test_env_example_names_every_variable_and_sets_none():
    from shared.configuration.variables import VARIABLES

    lines = reference.env_example().splitlines()
    assert [
        line[1:].partition("=")[0] for line in lines if line.startswith("#") and not line.startswith("# ")
    ] == [variable.name for variable in VARIABLES]
    assert all(line.startswith("#") or not line for line in lines)


def test_the_diagram_has_every_transition():
    page = reference.states_page()
    assert "queued --> running: claim" in page
    assert "stopping --> stopped: observe_stop" in page
    assert "completed --> [*]" in page
