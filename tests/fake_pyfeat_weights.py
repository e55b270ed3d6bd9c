"""Random weights of the right shapes for py-feat's real code, laid out as its cache is. Runs under py-feat's own Python.

    $LAMB_PYFEAT_PYTHON -I tests/fake_pyfeat_weights.py WORKER_SCRIPT FOLDER PICTURE X Y

The networks are py-feat's own, as they are when nothing was learned, except that the face detector's last layer is fitted (one
ridge regression) so that in PICTURE one cell, the one at pixel (X, Y), is a face of SIDE × SIDE px and no other is: so the
stages behind it run, and a test knows where the box must be. FOLDER/reference.json holds what py-feat's own ``detect`` says of
PICTURE with these weights, per detector.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

LEVEL, SIDE, STEP = 1, 64, 16  # of the detector's pyramid: its smaller anchor and the distance of its cells, px
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def place(folder: Path, repository: str, name: str) -> Path:
    """Where py-feat's cache has that file."""
    root = folder / f"models--py-feat--{repository}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    path = root / "snapshots" / COMMIT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def face_detector(picture, x: int, y: int):
    """RetinaFace that finds the face at (x, y) of the picture (uint8 (H, W, 3)), also beside a copy or a black one."""
    import numpy as np
    import torch
    from feat.face_detectors.Retinaface.Retinaface_model import RetinaFace

    net = RetinaFace().eval()
    mean = torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1)
    none = np.zeros_like(picture)
    rows = [[picture], [none], [none[:64, :64]], *([a, b] for a in (picture, none) for b in (picture, none))]
    seen, inputs, wanted = [], [], []
    handle = net.ClassHead.register_forward_pre_hook(lambda _, given: seen.append(given[0][LEVEL]))
    with torch.no_grad():
        for row in rows:
            pixels = torch.from_numpy(np.concatenate(row, axis=1)).permute(2, 0, 1)[None].float() - mean
            net(pixels)
            features = seen.pop()[0].permute(1, 2, 0).double()  # (rows, columns, 128)
            is_face = torch.zeros(features.shape[:2], dtype=torch.double)
            for i, one in enumerate(row):
                if one is picture:
                    is_face[y // STEP, (x + i * picture.shape[1]) // STEP] = 1
            inputs.append(torch.cat([features.flatten(0, 1), torch.ones(is_face.numel(), 1)], dim=1))
            wanted.append(is_face.flatten())
        handle.remove()
        given, target = torch.cat(inputs), torch.cat(wanted)
        weight = 1 + 50 * target  # faces are few
        normal = given.T @ (weight[:, None] * given) + 1e-8 * given.square().mean() * torch.eye(given.shape[1])
        solved = torch.linalg.solve(normal, given.T @ (weight * target))
        scores = given @ solved
        lowest, highest = scores[target > 0].min(), scores[target == 0].max()
        assert lowest > highest, f"not separable: a face has {lowest:.3f}, another cell {highest:.3f}"
        gain = 4.0 / (lowest - highest)  # logits of +2 and more, of -2 and less
        for head in (net.ClassHead, net.BboxHead):
            for layer in head._convs:
                layer.weight.zero_()
                layer.bias.zero_()
        for layer in net.ClassHead._convs:
            layer.bias[1::2] = -20.0  # per anchor: (no face, face)
        layer = net.ClassHead._convs[LEVEL]
        layer.weight[1, :, 0, 0] = (gain * solved[:-1]).float()
        layer.bias[1] = float(gain * (solved[-1] - (lowest + highest) / 2))
    return net


def action_units():
    """py-feat's AU classifier, fitted on noise."""
    import numpy as np
    import torch
    import xgboost
    from feat.au_detectors.StatLearning.SL_test import XGBClassifier
    from feat.utils.image_operations import HOGLayer
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    layer = HOGLayer(8, 8, 2, block_normalization="L2-Hys", feature_vector=True, device="cpu")
    hog = layer(torch.rand(2, 3, 112, 112)).shape[1]
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 0.3, (60, hog)).astype(np.float32)
    parts = {}
    for region in ("upper", "lower", "full"):
        scaler = StandardScaler().fit(noise)
        parts[f"scaler_{region}"] = scaler
        parts[f"pca_model_{region}"] = PCA(20, random_state=0).fit(scaler.transform(noise))
    model = XGBClassifier()
    inputs = np.concatenate([rng.normal(0, 30, (200, 20)), rng.uniform(0, 112, (200, 136))], axis=1)
    classifiers = {
        key: xgboost.XGBClassifier(n_estimators=20, max_depth=3, random_state=i).fit(inputs, rng.integers(0, 2, 200))
        for i, key in enumerate(model.au_keys)
    }
    model.load_weights(**parts, classifiers=classifiers)
    return model


def build(folder: Path, picture, x: int, y: int) -> None:
    """Write all files of both detectors."""
    import torch
    from feat.emo_detectors.ResMaskNet.resmasknet_test import ResMasking
    from feat.landmark_detectors.mobilefacenet_test import MobileFaceNet
    from feat.multitask.model_v2 import MEGraphAUv2, ModelV2Config
    from feat.utils.face_pose_mlp import PoseMLP
    from safetensors.torch import save_file
    from skops.io import dump

    torch.manual_seed(0)
    detector = face_detector(picture, x, y)
    save_file(detector.state_dict(), place(folder, "retinaface_r34", "model.safetensors"))

    landmarks = MobileFaceNet([112, 112], 136)
    with torch.no_grad():  # 68 points all over the middle of the crop, moved a little by what it shows
        landmarks.output_layer.bn.weight.fill_(0.01)
        landmarks.output_layer.bn.bias.uniform_(0.2, 0.8)
    torch.save(
        {"state_dict": landmarks.state_dict()}, place(folder, "mobilefacenet", "mobilefacenet_model_best.pth.tar")
    )

    dump(action_units(), place(folder, "xgb_au", "xgb_au_classifier_v2.skops"))

    emotions = ResMasking("", in_channels=3)
    emotions.fc = torch.nn.Sequential(torch.nn.Dropout(0.4), torch.nn.Linear(512, 7))
    torch.save(
        {"net": emotions.state_dict()}, place(folder, "resmasknet", "ResMaskNet_Z_resmasking_dropout1_rot30.pth")
    )
    place(folder, "resmasknet", "config.json").write_text(json.dumps({"in_channels": 3, "num_classes": 7}))

    save_file(PoseMLP().state_dict(), place(folder, "pose_mlp_v2", "pose_mlp_v2.safetensors"))
    scale = {"mean": [0.0] * 6, "std": [0.3] * 6}
    shape = {"hidden": [512, 256, 128], "dropout": 0.15, "output_normalization": scale}
    place(folder, "pose_mlp_v2", "pose_mlp_v2.json").write_text(json.dumps({"architecture": shape}))

    config = {
        "n_au": 20, "n_emotion": 7, "n_blendshape": 52, "mesh_normalized": True, "use_head_v3": True, "drop_mefl": True,
        "emotion_use_au_prob": True, "use_head_v2": False,
    }  # fmt: skip
    multitask = MEGraphAUv2(ModelV2Config(**config, pretrained=False))
    target = place(folder, "face_multitask_v2", "face_multitask_v28.safetensors")
    save_file(multitask.state_dict(), target, metadata={"config": json.dumps(config)})


def reference(files: dict[str, str], picture: str) -> dict[str, dict[str, float]]:
    """The first row of ``detect`` for the picture, of both detectors."""
    import feat
    import numpy as np

    multitask = next(path for name, path in files.items() if "/face_multitask" in name)
    detectors = {
        "v1": feat.Detectorv1(identity_model=None, gaze_model=None),
        "v2": feat.Detectorv2(identity_model=None, multitask_weights=multitask),
    }
    found = {}
    for name, detector in detectors.items():
        fex = detector.detect([picture], data_type="image", progress_bar=False)
        assert len(fex) == 1
        row = fex.iloc[0]
        found[name] = {
            column: float(row[column])
            for column in fex.columns
            if isinstance(row[column], np.floating | float) and ("_" not in column or column == "_neutral")
        }
    return found


def main(worker_script: str, folder: str, picture: str, x: str, y: str) -> None:
    spec = importlib.util.spec_from_file_location("pyfeat_worker", worker_script)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.without_torchcodec()
    files: dict[str, str] = {}
    worker.give_files(files)
    import feat  # noqa: F401  it loads xgboost before torch, on which it insists
    import numpy as np
    from PIL import Image

    build(Path(folder), np.array(Image.open(picture).convert("RGB")), int(x), int(y))
    for path in Path(folder).glob("*/snapshots/*/*"):
        files[f"py-feat/{path.parts[-4].split('--')[-1]}/{path.name}"] = str(path)
    (Path(folder) / "reference.json").write_text(json.dumps(reference(files, picture)))


if __name__ == "__main__":
    main(*sys.argv[1:])
