"""Modality (0008,0060): the terms that PS3.3 C.7.3.1.1.1 defines, and those it retired. Others are legal, but rare."""

from __future__ import annotations

from typing import Final

_DEFINED = (
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL "
    "IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG "
    "RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN "
    "TEXTUREMAP TG US VA XA XAPROTOCOL XC "
    # retired, and still in archives
    "AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF"
)
DEFINED: Final = frozenset(_DEFINED.split())
