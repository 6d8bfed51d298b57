-- Sends every ultrasound series to SonoDistill once nothing has been added to it for StableAge seconds.
-- Only Modality US: the results come back as SEG, SR, PR or OT, and must not be sent again.
function OnStableSeries(seriesId, tags, metadata)
  local series = ParseJson(RestApiGet('/series/' .. seriesId))
  if series['MainDicomTags']['Modality'] == 'US' then
    RestApiPost('/modalities/sonodistill/store', DumpJson({Resources = {seriesId}, Synchronous = false}, true))
  end
end
