"""The attributes a result shares with the instance it was made from (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2)."""

PATIENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("ReferencedPatientSequence", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence"),
    *("SourcePatientGroupIdentificationSequence", "GroupOfPatientsIdentificationSequence", "PatientBirthTime"),
    *("PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar", "PatientAlternativeCalendar"),
    *("QualityControlSubject", "StrainDescription", "StrainNomenclature", "StrainStockSequence"),
    *("StrainAdditionalInformation", "StrainCodeSequence", "GeneticModificationsSequence", "OtherPatientNames"),
    *("OtherPatientIDsSequence", "ReferencedPatientPhotoSequence", "EthnicGroup", "EthnicGroupCodeSequence"),
    *("PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription"),
    *("PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole"),
    *("ResponsibleOrganization", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod"),
    "DeidentificationMethodCodeSequence",
)
GENERAL_STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    *("IssuerOfAccessionNumberSequence", "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName"),
    *("ConsultingPhysicianIdentificationSequence", "StudyDescription", "ProcedureCodeSequence", "PhysiciansOfRecord"),
    *("PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy"),
    *("PhysiciansReadingStudyIdentificationSequence", "ReferencedStudySequence", "RequestingService"),
    *("RequestingServiceCodeSequence", "ReasonForPerformedProcedureCodeSequence"),
)
PATIENT_STUDY = (
    *("AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize"),
    *("PatientSizeCodeSequence", "PatientBodyMassIndex", "MeasuredAPDimension", "MeasuredLateralDimension"),
    *("PatientWeight", "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus", "AdditionalPatientHistory"),
    *("PregnancyStatus", "LastMenstrualDate", "PatientSexNeutered", "ReasonForVisit", "ReasonForVisitCodeSequence"),
    *("AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription"),
    *("IssuerOfServiceEpisodeIDSequence", "PatientState"),
)
PATIENT_AND_STUDY = (*PATIENT, *GENERAL_STUDY, *PATIENT_STUDY)

REQUIRED = frozenset({*PATIENT[:4], *GENERAL_STUDY[:6]})
"""Those of type 1 and 2: present in every object, also when empty."""

IDENTIFYING = frozenset({"PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "StudyID", "AccessionNumber"})
"""Those by which receivers find the patient and the study."""

NEVER_EMPTY = frozenset(
    {
        *("PatientAlternativeCalendar", "PatientSpeciesDescription", "PatientSpeciesCodeSequence"),
        *("ResponsiblePersonRole", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    }
)
"""Those of type 1C: absent, or with a value."""
