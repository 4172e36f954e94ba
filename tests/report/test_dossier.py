"""The dossier as content and as a page; `test_dossier_in_a_browser.py` opens it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dossier_fixtures import ball, make_material, renamed, volumes

from nnunet_ima.commands.report import main
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Failure
from nnunet_ima.report.about import QUESTIONS, About, Acceptance, read_about, template
from nnunet_ima.report.cards import hash_of
from nnunet_ima.report.charts import margin_chart
from nnunet_ima.report.document import Light
from nnunet_ima.report.dossier import dossier
from nnunet_ima.report.html import html
from nnunet_ima.report.markdown import markdown
from nnunet_ima.report.material import FILE, SCHEMA, read_material, write_material
from nnunet_ima.report.strata import Strata, read_strata
from nnunet_ima.report.volumes import affine_of, fit, size
from nnunet_ima.segmentation.settings import Settings

MakeFindings = Callable[..., Findings]
HOSTILE = '"><img src=x onerror=alert(1)></script><b>\n\u202eevil & ' + "x" * 300


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def material(make_findings: MakeFindings, settings: Settings, tmp_path: Path):
    return make_material(make_findings(), settings, tmp_path)


def test_sections_stand_in_the_order_in_which_they_are_asked_for(material) -> None:
    titles = [section.title for section in dossier(material).sections]
    wanted = [
        "What was tested",
        "Intended use and input domain",
        "Protocol",
        "Threat model",
        "Results",
        "Look into the cases",
        "Strata",
        "Repeatability",
        "Is the evidence sound?",
        "Cases and files refused",
        "Malformed input",
        "Limits of this evidence",
        "Hazards left to the manufacturer",
        "Where regulations ask for this",
    ]
    assert [title for title in titles if title in wanted] == wanted


def test_the_light_is_what_was_demanded(make_findings: MakeFindings, settings: Settings, tmp_path: Path) -> None:
    """The weak model has .38 at ε = 5, the hard one .78."""
    findings = make_findings()
    material = make_material(findings, settings, tmp_path)
    assert [block.colour for block in dossier(material).lead[:2]] == ["amber", "amber"]
    demanded = About({}, (Acceptance(0.8, 0), Acceptance(0.7, 5)))
    weak, hard = dossier(material, demanded).lead[:2]
    assert (weak.colour, hard.colour) == ("red", "green")
    assert "0.380 at ε = 5, not 0.7" in weak.sentence
    findings.verdicts[0] = replace(findings.verdicts[0], result="failed", conclusive=False)
    lights = dossier(make_material(findings, settings, tmp_path), demanded).lead[:2]
    assert [light.word for light in lights] == ["NOT CONCLUSIVE", "Met"]  # what is said of the other one holds
    with pytest.raises(ValueError, match=r"acceptance is asked at ε = 7, but the audit measured 0, 1, 5"):
        dossier(material, About({}, (Acceptance(0.7, 7),)))


def test_what_the_user_says_is_told_and_what_not_is_named(material) -> None:
    text = markdown(dossier(material, About({"patients": "adults", "reviewer": "B. C."})))
    assert re.search(rf"{re.escape(QUESTIONS['patients'])} +\| adults", text)
    assert text.count("not provided") == len(QUESTIONS) - 2
    assert "reviewer: B. C." in text


def test_a_failed_case_is_told(make_findings: MakeFindings, settings: Settings, tmp_path: Path) -> None:
    findings = make_findings()
    findings.failed.append(Failure(model="weak", case="case_9", error="its label is empty"))
    assert "its label is empty" in markdown(dossier(make_material(findings, settings, tmp_path)))


def test_strata_have_numbers_of_their_own(make_findings: MakeFindings, settings: Settings, tmp_path: Path) -> None:
    material = make_material(make_findings(models=("weak",), cases=12), settings, tmp_path)
    odd = {f"case_{number}": ("A", "B")[number % 2] for number in range(12)}
    text = markdown(dossier(material, strata=Strata({"site": odd})))
    row = next(line for line in text.splitlines() if line.startswith("| A "))
    mean = np.mean([0.9 - 0.02 * number - 0.5 for number in range(0, 12, 2)])
    assert f"{mean:.3f} [" in row
    assert "Fewer than 10 cases, which say little: site A, site B." in text
    assert "size of the structures" in markdown(dossier(material))


def test_the_table_of_cases_begins_with_the_worst(material) -> None:
    section = next(it for it in dossier(material).sections if it.key == "cases")
    table = next(block for block in section.blocks if getattr(block, "key", "") == "cases")
    assert [row[:2] for row in table.rows[:2]] == [("weak", "case_2"), ("weak", "case_1")]
    assert table.rows[0][5:7] == ("0.360", "shell +0%, core -25%")


def test_a_page_of_many_cases_lists_the_worst_and_says_where_all_are(material, monkeypatch: pytest.MonkeyPatch) -> None:
    text = markdown(dossier(material))
    assert "holds all" not in text
    assert "lists all" not in text
    monkeypatch.setattr("nnunet_ima.report.dossier.LISTED", 2)
    few = dossier(material)
    table = next(it for section in few.sections for it in section.blocks if getattr(it, "key", "") == "cases")
    assert [row[:2] for row in table.rows] == [("weak", "case_2"), ("weak", "case_1")]
    text = markdown(few)
    assert "The worst 2 of 6; cases.csv holds all." in text
    every = hash_of(material.manifest["question"]["cases"])
    assert f"the first 2. manifest.json lists all; their SHA-256 together is {every}" in text


def test_a_curve_of_many_cases_keeps_some_of_its_steps(material, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = margin_chart(material.summary, "ε")["data"][0]
    assert len(whole["x"]) == 5  # all three cases of the weak model fall
    monkeypatch.setattr("nnunet_ima.report.charts.STEPS", 2)
    thin = margin_chart(material.summary, "ε")["data"][0]
    assert len(thin["x"]) == len(thin["y"]) == len(thin["text"]) == 4
    points = {*zip(whole["x"], whole["y"], whole["text"], strict=True)}
    assert {*zip(thin["x"], thin["y"], thin["text"], strict=True)} < points


def test_a_page_asks_the_network_for_nothing(material) -> None:
    page = Page(html(dossier(material)))
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    policy = next(it["content"] for tag, it in page.tags if it.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_the_light_of_a_model_does_not_depend_on_another_one(
    make_findings: MakeFindings, settings: Settings, tmp_path: Path
) -> None:
    findings = make_findings()
    findings.verdicts = [replace(it, conclusive=it.model == "hard") for it in findings.verdicts]
    lights = [block for block in dossier(make_material(findings, settings, tmp_path)).lead if isinstance(block, Light)]
    assert [light.word for light in lights] == ["NOT CONCLUSIVE", "No limit given"]


def test_hostile_names_are_text(make_findings: MakeFindings, settings: Settings, tmp_path: Path) -> None:
    findings = renamed(make_findings(), lambda name: name + HOSTILE)
    shown = tuple(volumes("weak" + HOSTILE, f"case_{number}" + HOSTILE).shown() for number in range(3))
    clean = html(dossier(make_material(make_findings(), settings, tmp_path)))
    page = html(dossier(make_material(findings, settings, tmp_path, shown)))
    assert [tag for tag, _ in Page(page).tags] == [tag for tag, _ in Page(clean).tags]  # no tag of theirs
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert "[U+202E]evil & xxx" in Page(page).text
    stored = re.search(r'id="stored-volumes">(.*?)</script>', page, re.DOTALL)
    assert stored is not None
    assert json.loads(stored[1])[0]["case"].startswith('case_0"><img src=x onerror=alert(1)></script><b>')


def read(volume: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(volume))


def test_volumes_keep_their_place_and_values() -> None:
    found = volumes("m", "c")
    shown = found.shown()
    image = read(shown.image)
    assert np.array_equal(np.asarray(image.dataobj), found.image.T)
    assert np.array_equal(image.affine, found.affine)
    noise, largest = np.asarray(read(shown.layers[1].noise).dataobj), np.abs(found.levels[1].noise).max()
    assert np.abs(noise - found.levels[1].noise.T).max() <= largest / 127 / 2 * 1.01
    coarse = np.asarray(read(found.shown(coarse=True).image).dataobj)
    assert np.abs(coarse - found.image.T).max() <= np.ptp(found.image) / 255 / 2 * 1.01


def test_cropping_keeps_every_structure_where_it_was() -> None:
    found = volumes("m", "c")
    far = replace(found, image=np.pad(found.image, 30), label=np.pad(found.label, 30), clean=np.pad(found.clean, 30))
    far = replace(
        far,
        fragility=None,
        levels=tuple(
            replace(it, noise=np.pad(it.noise, 30), predicted=np.pad(it.predicted, 30)) for it in found.levels
        ),
    )
    cropped = far.cropped()
    assert cropped.image.size < far.image.size / 5
    assert cropped.label.sum() == far.label.sum()
    for whole in (far, cropped):
        place = whole.affine @ [*np.argwhere(whole.label.T)[0], 1]
        assert place == pytest.approx(far.affine @ [*np.argwhere(far.label.T)[0], 1])


def test_a_page_stays_small() -> None:
    cases = [volumes("m", f"case_{number}", number) for number in range(6)]
    whole, note = fit(cases, 10**9, 6)
    assert (len(whole), note) == (6, "")
    assert {it.note for it in whole} == {""}
    total = sum(map(size, whole))
    most, note = fit(iter(cases), int(0.9 * total), 6)
    assert (len(most), note) == (6, "")
    assert sum(map(size, most)) <= 0.9 * total
    assert any("Cropped" in it.note for it in most)
    some, note = fit(cases, total // 3, 6)
    assert 0 < len(some) < 6
    assert [it.case for it in some] == [f"case_{number}" for number in range(len(some))]
    assert note == f"Left out, so that the page stays small: {6 - len(some)} cases."
    assert sum(map(size, some)) <= total // 3


def test_geometry_is_that_of_the_reader() -> None:
    sitk = {"direction": (1, 0, 0, 0, -1, 0, 0, 0, 1), "spacing": (0.5, 0.6, 2), "origin": (10, 20, 30)}
    assert np.allclose(affine_of({"sitk_stuff": sitk}) @ [1, 1, 1, 1], [-10.5, -19.4, 32, 1])
    assert np.allclose(affine_of({"spacing": [999, 2, 3]}), np.diag([3, 2, 999, 1]))


def test_material_is_read_as_it_was_written(material) -> None:
    (material.folder / "summary.json").write_text(json.dumps(material.summary))
    (material.folder / "manifest.json").write_text(json.dumps(material.manifest))
    write_material(material)
    again = read_material(material.folder)
    assert again.shown == material.shown
    assert html(dossier(again)) == html(dossier(replace(material, summary=again.summary, cases=again.cases)))


def test_the_command_makes_it_again(
    material, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (material.folder / "summary.json").write_text(json.dumps(material.summary))
    (material.folder / "manifest.json").write_text(json.dumps(material.manifest))
    write_material(material)
    main(["--new-about", "--output", str(tmp_path / "about.toml")])
    about = tmp_path / "about.toml"
    assert read_about(about) == About({})
    about.write_text(template().replace('sites = ""', 'sites = "Somewhere"').replace("# [[", "[[").replace("# d", "d"))
    about.write_text(about.read_text().replace("# eps", "eps"))
    (tmp_path / "groups.csv").write_text("case,site\ncase_0,A\ncase_1,B\n")
    main([str(material.folder), "--about", str(about), "--strata", str(tmp_path / "groups.csv")])
    page = (material.folder / "dossier.html").read_text()
    assert all(word in page for word in ("Somewhere", "What was demanded is not met", "<td>A</td>", "not provided"))
    with pytest.raises(SystemExit):
        main(["--new-about", "--output", str(about)])
    assert "exists; choose another file" in capsys.readouterr().err


def test_a_page_with_fewer_images_or_none(material, capsys: pytest.CaptureFixture[str]) -> None:
    (material.folder / "summary.json").write_text(json.dumps(material.summary))
    (material.folder / "manifest.json").write_text(json.dumps(material.manifest))
    for model in ("weak", "hard"):
        (material.folder / f"worst_case_{model}.png").write_bytes(b"a picture of a patient")
    write_material(material)
    (material.folder / "about.toml").write_text('images = "Generated; free for all"')
    picture = base64.b64encode(b"a picture of a patient").decode()
    for most, cases, pictures in ((1, 2, 2), (0, 0, 0)):
        main([str(material.folder), "--shown", str(most), "--about", str(material.folder / "about.toml")])
        page = (material.folder / "dossier.html").read_text()
        assert page.count('"predicted":') == 2 * cases  # levels
        assert page.count(picture) == pictures
        assert (
            ("Shown are the worst cases of each model, 1 at most." in page)
            == ("Images: Generated" in page)
            == (most == 1)
        )
    with pytest.raises(SystemExit):
        main([str(material.folder), "--shown", "-1"])
    assert "--shown must be at least 0, got -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("patients = 3", "patients must be text in quotes, got 3"),
        ('patient = "a"', "unknown key 'patient'; did you mean patients?"),
        ("patients = ", "is no TOML file"),
        ("acceptance = 3", r"acceptance is written \[\[acceptance\]\]"),
        ("[[acceptance]]\ndice = 0.8", r"each \[\[acceptance\]\] has exactly dice and eps"),
        ("[[acceptance]]\ndice = 1.8\neps = 5", r"dice of an \[\[acceptance\]\] must be a number .* got 1\.8"),
        ("[[acceptance]]\ndice = 0.8\neps = nan", r"eps of an \[\[acceptance\]\] must be a number"),
    ],
)
def test_an_about_file_that_says_something_else_is_refused(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "about.toml"
    file.write_text(content)
    with pytest.raises(ValueError, match=says):
        read_about(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name,site\na,b\n", "needs the column case"),
        ("case\na\n", "at least one other"),
        ("case,site\na,b\na,c\n", "names the case 'a' twice"),
    ],
)
def test_strata_that_cannot_be_told_are_refused(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "strata.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=says):
        read_strata(file)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "flipped", "no list", "schema"])
def test_damaged_material_is_refused(material, damage: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (material.folder / "summary.json").write_text(json.dumps(material.summary))
    (material.folder / "manifest.json").write_text(json.dumps(material.manifest))
    write_material(material)
    file = material.folder / FILE
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[20] ^= 255
        file.write_bytes(content)
    elif damage == "no list":
        file.write_bytes(gzip.compress(f'{{"schema": {SCHEMA}, "shown": [3]}}'.encode()))
    else:
        file.write_bytes(gzip.compress(b'{"schema": 99}'))
    with pytest.raises(SystemExit) as caught:
        main([str(material.folder)])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "run the audit's command again" in said
    assert str(file) in said
    assert not (material.folder / "dossier.html").exists()


def test_pictures_are_inside(material) -> None:
    from matplotlib import image as mpl_image

    mpl_image.imsave(material.folder / "dice.png", ball((1, 8, 8), (0, 4, 4), 3)[0].astype(float))
    page = html(dossier(material))
    found = re.search(r'<img class="still" src="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    assert base64.b64decode(found[1]) == (material.folder / "dice.png").read_bytes()
